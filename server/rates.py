"""How often a key may ask, how much at once, and how often an address may guess keys."""

from __future__ import annotations

import ipaddress
import time
from collections import Counter
from collections.abc import Callable

from limits import RateLimitItem, parse
from limits.aio.storage import MemoryStorage
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.callers import Caller
from server.refusals import RateLimited

# Addresses whose wrong keys are counted one by one; all others count as one.
ADDRESSES = 10_000


class Rates:
    """ASGI middleware behind the gate: so many requests of a key in a window, and so many at once.

    Every answer says what is left, in the headers of draft-ietf-httpapi-ratelimit-headers.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        rate: str | None,
        running: int | None,
        free: str,
        refused: Callable[[RateLimited, Request], Response],
    ) -> None:
        """None is for any number; `free` is a path that is not counted; `refused` answers who asks too often."""
        self._app, self._free, self._refused = app, free, refused
        self._window = _Window(rate) if rate else None
        self._most = running
        self._running: Counter[str] = Counter()
        policies = [f'"rate";q={self._window.amount};w={self._window.seconds}'] if self._window else []
        policies += [f'"running";q={self._most};qu="concurrent-requests"'] if self._most else []
        self._policy = ", ".join(policies).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass, or answer it with 429."""
        if scope["type"] != "http" or scope["path"] == self._free or not self._policy:
            await self._app(scope, receive, send)
            return
        caller: Caller = scope["state"]["caller"]
        left, reset = await self._window.take(caller.key) if self._window else (1, 0)
        send = self._told(send, left, reset)
        if left < 0:
            await self._refuse("This key has asked too often.", reset, scope, receive, send)
        elif self._most and self._running[caller.key] >= self._most:
            await self._refuse(f"This key has {self._most} requests at once already.", 1, scope, receive, send)
        else:
            await self._run(caller.key, scope, receive, send)

    async def _run(self, key: str, scope: Scope, receive: Receive, send: Send) -> None:
        self._running[key] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._running[key] -= 1
            if not self._running[key]:
                del self._running[key]

    async def _refuse(self, why: str, reset: int, scope: Scope, receive: Receive, send: Send) -> None:
        await self._refused(RateLimited(why, retry_after=reset), Request(scope))(scope, receive, send)

    def _told(self, send: Send, left: int, reset: int) -> Send:
        headers = [(b"ratelimit-policy", self._policy)]
        if self._window:
            headers.append((b"ratelimit", b'"rate";r=%d;t=%d' % (max(left, 0), reset)))

        async def wrapped(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] += headers
            await send(message)

        return wrapped


class Guesses:
    """Wrong keys by address. A right key is served whatever else came from its address."""

    def __init__(self, rate: str | None) -> None:
        self._window = _Window(rate) if rate else None

    async def wrong(self, scope: Scope, given: str) -> None:
        """Count a wrong key; a request without one is no guess. Raises RateLimited where there were too many."""
        if self._window is None or not given:
            return
        address = _address(scope)
        left, reset = await self._window.take(address if self._window.names < ADDRESSES else "others")
        if left < 0:
            raise RateLimited("Too many wrong keys came from this address.", retry_after=reset)


class _Window:
    """A fixed window for each name, that begins with its first request."""

    def __init__(self, rate: str) -> None:
        item: RateLimitItem = parse(rate)
        self.amount, self.seconds = item.amount, item.get_expiry()
        self._storage = MemoryStorage()

    @property
    def names(self) -> int:
        """How many there are that asked in their window."""
        return len(self._storage.expirations)

    async def take(self, name: str) -> tuple[int, int]:
        """Count one; what is left, negative if it was too many, and in how many seconds the window ends."""
        count = await self._storage.incr(name, self.seconds)
        left = await self._storage.get_expiry(name) - time.time()
        if left > self.seconds:  # the clock was set back: nobody is to wait for it
            await self._storage.clear(name)
            return await self.take(name)
        return self.amount - count, max(1, round(left))


def _address(scope: Scope) -> str:
    """Who sent it. Of IPv6, the network: whoever has one address there has them all."""
    host = scope["client"][0] if scope.get("client") else ""
    return str(ipaddress.ip_network(f"{host}/64", strict=False)) if ":" in host else host
