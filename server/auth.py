"""Who may pass: request ids, the Host header, a key with its scope for every route but health, the body's size."""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from urllib.parse import parse_qsl

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.callers import NOBODY, Caller
from server.errors import AigbbError, BodyTooLarge, ForeignHost, KeyInUrl, MethodNotAllowed, Unauthorized
from server.keys import Keyring
from server.rates import Guesses
from server.refusals import RateLimited
from server.scopes import Scopes
from server.wire import problem, scrubbed
from server.wire_openai import error_body

HEALTH = "/healthz"
# A browser cannot send a bearer token by itself: for the documentation alone, it may ask its user for it.
DOCUMENTATION = re.compile(r"/(docs(/oauth2-redirect)?|openapi\.json|static-offline-docs/.*)?")
_IN_URL = frozenset({"token", "access_token", "key", "api_key", "apikey"})
# What comes from kernels, pictures and pages too, is shown without scripts, and in no page of others.
_POLICY = b"default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'; sandbox"
_UNLESS_GIVEN = ((b"cache-control", b"no-store"), (b"content-security-policy", _POLICY))
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Gate:
    """ASGI middleware around the whole application, so that no route can be forgotten."""

    def __init__(self, app: ASGIApp, *, keys: Keyring, hosts: Collection[str], max_body: int, guesses: Guesses) -> None:
        self._app = app
        self._keys = keys
        self._scopes = Scopes()
        self._hosts = frozenset(host.lower() for host in hosts)
        self._max_body = max_body
        self._guesses = guesses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass with its id and its caller, or answer it here."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name: value.decode("latin-1") for name, value in reversed(scope["headers"])}
        identity = _request_id(headers)
        state = scope.setdefault("state", {})
        state.update(request_id=identity, caller=replace(NOBODY, request_id=identity))
        structlog.contextvars.bind_contextvars(request_id=identity)
        try:
            self._check_host(headers)
            _check_url(scope)
            if scope["path"] != HEALTH:
                state["caller"] = self._admitted(scope, headers, identity)
        except AigbbError as error:
            refused = await self._counted(error, scope, headers)
            await _refusal(refused, scope)(scope, receive, _with_id(send, identity))
            return
        await self._app(scope, _capped(receive, self._max_body), _with_id(send, identity))

    async def _counted(self, error: AigbbError, scope: Scope, headers: Mapping[bytes, str]) -> AigbbError:
        """Return what a refusal is: of a wrong key, that there were too many, where that is so."""
        if isinstance(error, Unauthorized):
            try:
                await self._guesses.wrong(scope, headers.get(b"authorization", ""))
            except RateLimited as limited:
                return limited
        return error

    def _check_host(self, headers: Mapping[bytes, str]) -> None:
        named = headers.get(b"host", "")
        name, _, port = named.rpartition(":")
        host = (name if port.isdecimal() else named).strip("[]").lower()
        if host not in self._hosts:
            raise ForeignHost(f"The Host header names {host[:80]!r}.")

    def _admitted(self, scope: Scope, headers: Mapping[bytes, str], identity: str) -> Caller:
        given = _credentials(headers.get(b"authorization", ""), browser=_is_documentation(scope))
        caller = self._keys.caller(given, identity)
        self._scopes.check(scope["method"], scope["path"], caller)
        length = headers.get(b"content-length", "0")
        if length.isdecimal() and int(length) > self._max_body:
            raise BodyTooLarge(f"The body has {length} bytes; {self._max_body} are allowed.")
        return caller


def refused(error: AigbbError, request: Request) -> JSONResponse:
    """A problem; to OpenAI's clients in the form that they read."""
    if request.url.path.startswith("/v1/"):
        return JSONResponse(error_body(scrubbed(error, request)), error.status)
    return problem(error, request)


def _refusal(error: AigbbError, scope: Scope) -> JSONResponse:
    answer = refused(error, Request(scope))
    if isinstance(error, Unauthorized):
        answer.headers["WWW-Authenticate"] = _challenge(scope)
    if isinstance(error, MethodNotAllowed):
        answer.headers["Allow"] = ", ".join(error.extra["allow"])
    return answer


def _check_url(scope: Scope) -> None:
    """Raises KeyInUrl: a URL is written down on its way, by whoever passes it on."""
    if not scope["query_string"]:
        return
    for name, _ in parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True):
        if name.lower() in _IN_URL:
            raise KeyInUrl(f"The URL has a `{name.lower()}`: keys are not taken from there.")


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
        return 'Basic realm="aigbb-functions: any user name, the token or a key as password"'
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
            given = {name for name, _ in headers}
            headers += [each for each in _UNLESS_GIVEN if each[0] not in given]
        await send(message)

    return wrapped
