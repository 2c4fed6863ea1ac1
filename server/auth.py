"""Who may pass: request ids, the Host header, the bearer token for every route but health, the body's size."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
from collections.abc import Collection, Iterable, Mapping

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.callers import Caller
from server.errors import AigbbError, BodyTooLarge, ForeignHost, Unauthorized
from server.rates import Guesses
from server.wire import problem

HEALTH = "/healthz"
# A browser cannot send a bearer token by itself: for the documentation alone, it may ask its user for it.
DOCUMENTATION = re.compile(r"/(docs(/oauth2-redirect)?|openapi\.json|static-offline-docs/.*)?")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Gate:
    """ASGI middleware around the whole application, so that no route can be forgotten."""

    def __init__(self, app: ASGIApp, *, token: str, hosts: Collection[str], max_body: int, guesses: Guesses) -> None:
        self._app = app
        self._token = token.encode()
        self._key = f"token-{hashlib.sha256(self._token).hexdigest()[:8]}"
        self._hosts = frozenset(host.lower() for host in hosts)
        self._max_body = max_body
        self._guesses = guesses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass with its id, or answer it here."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name: value.decode("latin-1") for name, value in reversed(scope["headers"])}
        identity = _request_id(headers)
        scope.setdefault("state", {}).update(request_id=identity, caller=Caller(self._key, identity))
        structlog.contextvars.bind_contextvars(request_id=identity)
        try:
            await self._guesses.check(scope, headers.get(b"authorization", ""))
            self._check(scope, headers)
            self._guesses.right(scope, headers.get(b"authorization", ""))
        except AigbbError as error:
            if isinstance(error, Unauthorized):
                await self._guesses.wrong(scope, headers.get(b"authorization", ""))
            answer = problem(error, Request(scope))
            if isinstance(error, Unauthorized):
                answer.headers["WWW-Authenticate"] = _challenge(scope)
            await answer(scope, receive, _with_id(send, identity))
            return
        await self._app(scope, _capped(receive, self._max_body), _with_id(send, identity))

    def _check(self, scope: Scope, headers: Mapping[bytes, str]) -> None:
        named = headers.get(b"host", "")
        name, _, port = named.rpartition(":")
        host = (name if port.isdecimal() else named).strip("[]").lower()
        if host not in self._hosts:
            raise ForeignHost(f"The Host header names {host[:80]!r}.")
        if scope["path"] == HEALTH:
            return
        given = list(_credentials(headers.get(b"authorization", ""), browser=_is_documentation(scope)))
        if not any(hmac.compare_digest(one, self._token) for one in given):
            raise Unauthorized("The token is wrong." if given else "No token was sent.")
        length = headers.get(b"content-length", "0")
        if length.isdecimal() and int(length) > self._max_body:
            raise BodyTooLarge(f"The body has {length} bytes; {self._max_body} are allowed.")


def _is_documentation(scope: Scope) -> bool:
    return scope["method"] == "GET" and DOCUMENTATION.fullmatch(scope["path"]) is not None


def _credentials(header: str, *, browser: bool) -> Iterable[bytes]:
    scheme, _, value = header.partition(" ")
    if scheme.lower() == "bearer":
        yield value.strip().encode()
    elif browser and scheme.lower() == "basic":
        try:
            yield base64.b64decode(value.strip(), validate=True).partition(b":")[2]
        except binascii.Error:
            return


def _challenge(scope: Scope) -> str:
    if _is_documentation(scope):
        return 'Basic realm="aigbb-functions: any user name, the token as password"'
    return 'Bearer realm="aigbb-functions"'


def _request_id(headers: Mapping[bytes, str]) -> str:
    given = headers.get(b"x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else os.urandom(16).hex()


def _capped(receive: Receive, limit: int) -> Receive:
    """Count a body that did not say its length. FastAPI lets an HTTPException from here pass."""
    seen = 0

    async def wrapped() -> Message:
        nonlocal seen
        message = await receive()
        body = message.get("body", b"")
        seen += len(body)
        if seen > limit:
            raise HTTPException(413)
        if b"\0" in body:  # JSON has none, unless it is UTF-16
            raise HTTPException(400)
        return message

    return wrapped


def _with_id(send: Send, identity: str) -> Send:
    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = message["headers"]
            headers += ((b"x-request-id", identity.encode()), (b"x-content-type-options", b"nosniff"))
            if all(name != b"cache-control" for name, _ in headers):
                headers.append((b"cache-control", b"no-store"))
        await send(message)

    return wrapped
