"""What the REST door does while the service winds down."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from server.draining import Drain, refusal
from server.wire import problem

# What ends something is welcome until the end.
_ENDS = re.compile(r"DELETE /(sessions|executions)/.+|POST /(sessions/[^/]+/interrupt|executions/[^/]+/cancel)")


class Draining:
    """ASGI middleware that counts requests, and refuses new work once the service winds down."""

    def __init__(self, app: ASGIApp, *, drain: Drain) -> None:
        self._app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass; one that is cut off in the end is told so, if it was not answered yet."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._drain.state != "open" and not _is_welcome(scope):
            await problem(refusal(), Request(scope))(scope, receive, send)
            return
        with self._drain.working():
            try:
                await self._app(scope, receive, send)
            except asyncio.CancelledError:
                if self._drain.state != "cut":
                    raise
                with suppress(RuntimeError):  # an answer has begun, and ends here
                    await problem(refusal(), Request(scope))(scope, receive, send)


def _is_welcome(scope: Scope) -> bool:
    return scope["method"] in ("GET", "HEAD") or _ENDS.fullmatch(f"{scope['method']} {scope['path']}") is not None
