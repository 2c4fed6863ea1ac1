"""The outermost part of the REST door: each request is told of, once its answer is over."""

from __future__ import annotations

import asyncio
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.observing import Observer, Served


class Access:
    """ASGI middleware. What is told is the route's template, never the path: names and ids are no label."""

    def __init__(self, app: ASGIApp, *, observer: Observer) -> None:
        self._app = app
        self._observer = observer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, and tell of it; also of one whose client leaves, or that fails."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 499  # as others name an answer that nobody waited for

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        state = scope.setdefault("state", {})
        try:
            await self._app(scope, receive, noting)
        except asyncio.CancelledError:
            if not state.get("left"):  # whose work was given up: that is no fault
                raise
        finally:
            key = state["caller"].key if "caller" in state else ""
            seconds = time.perf_counter() - start
            self._observer.note(Served(scope["method"], _template(scope), status, seconds, key))


def _template(scope: Scope) -> str:
    """The path that the route was declared with; empty where no route took the request."""
    path: str = getattr(scope.get("route"), "path", "")
    return path
