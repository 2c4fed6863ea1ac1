"""The same request again: an Idempotency-Key stands for one body, and gets one answer, for a day."""

from __future__ import annotations

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import Awaitable, Callable

import structlog

from kernels.clock import SteadyClock
from kernels.errors import InsufficientStorage
from server.errors import IdempotencyKeyReused
from server.registry import Kept, Registry

log = structlog.get_logger(__name__)

DAY = 24 * 3600.0


class Replays:
    """Remembers successful answers by key. Two requests with one key wait for each other."""

    def __init__(self, registry: Registry, clock: SteadyClock | None = None) -> None:
        self._registry = registry
        self._clock = clock or SteadyClock()
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._waiting: defaultdict[str, int] = defaultdict(int)

    async def once(
        self, key: str | None, body: bytes, work: Callable[[], Awaitable[tuple[int, str]]]
    ) -> tuple[int, str, bool]:
        """Status and answer of `work`, or those that the key got before; and whether it is such a replay.

        Raises IdempotencyKeyReused, and what the work raises: that is not remembered.
        """
        if key is None:
            return *await work(), False
        digest = hashlib.sha256(body).hexdigest()
        self._waiting[key] += 1
        try:
            async with self._turns[key]:
                return await self._once(key, digest, work)
        finally:
            self._waiting[key] -= 1
            if not self._waiting[key]:
                del self._waiting[key], self._turns[key]

    async def _once(
        self, key: str, digest: str, work: Callable[[], Awaitable[tuple[int, str]]]
    ) -> tuple[int, str, bool]:
        kept = await asyncio.to_thread(self._registry.kept, key, self._clock.now() - DAY)
        if kept is None:
            status, answer = await work()
            now = self._clock.now()
            try:
                await asyncio.to_thread(self._registry.keep, key, Kept(digest, status, answer), now, now - DAY)
            except InsufficientStorage as error:  # the work is done all the same
                log.warning("idempotency.not_kept", detail=error.detail)
            return status, answer, False
        if kept.body != digest:
            raise IdempotencyKeyReused("This Idempotency-Key came before, with another body.")
        return kept.status, kept.answer, True
