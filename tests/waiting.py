"""Waiting for what comes by itself, bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import anyio


async def until(condition: Callable[[], object], seconds: float = 30) -> None:
    """Look until it is so. Raises TimeoutError."""
    with anyio.fail_after(seconds):
        while not condition():
            await asyncio.sleep(0.01)
