"""HTTP/1.1 as the service takes it: uvicorn's protocol with caps and deadlines, and with refusals that are problems.

What a request claims is settled here, before any other code sees it, so that no proxy in front can read it otherwise.
"""

from __future__ import annotations

import asyncio
import http
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from pydantic_core import to_json
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from server.errors import AigbbError, BodyTooLarge, WrongContentType
from server.refusals import HeadersTooLarge, MalformedRequest, RequestTimedOut, TooManyConnections, UrlTooLong
from server.wire import PROBLEM_TYPE, members

# Bytes of a URL, and headers of a request, at most; of both together, AIGBB_MAX_HEADERS.
MAX_URL = 16 * 1024
MAX_COUNT = 100
# Who is told 503 is told so once the request is there; of those, only so many are waited for.
TOLD = 100
# Seconds in which whoever was refused may read that, and close.
FAREWELL = 2.0
# A chunk of one byte has six around it, and there may be trailers.
OVERHEAD = 8
# Bytes of a body that are read and thrown away once its request is answered; the time for a body bounds it, too.
DISCARDED = 64 * 1024 * 1024
# What nobody may say twice: each would be believed by somebody.
_ONCE = frozenset({b"host", b"authorization", b"content-type", b"content-length", b"transfer-encoding"})
Headers = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Terms:
    """Sizes in bytes, times in seconds: what a client may take of the service before a request is one."""

    max_headers: int
    max_body: int
    header_seconds: float
    body_seconds: float
    stall_seconds: float
    connections: int


def faults(url: bytes, headers: Headers, terms: Terms) -> Iterable[AigbbError]:
    """What is wrong with the head of a request; names of headers are in lower case."""
    if len(url) > MAX_URL:
        yield UrlTooLong(f"The URL has {len(url)} bytes; {MAX_URL} are allowed.")
    size = len(url) + sum(len(name) + len(value) + 4 for name, value in headers)
    if size > terms.max_headers or len(headers) > MAX_COUNT:
        yield HeadersTooLarge(f"There are {len(headers)} headers, {size} bytes with the URL.")
    seen: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _ONCE and name in seen:
            yield MalformedRequest(f"The header {name.decode().title()} is there twice.")
        seen[name] = value
    if seen.get(b"transfer-encoding", b"chunked").lower() != b"chunked":
        yield MalformedRequest("The only Transfer-Encoding is chunked.")
    if seen.get(b"content-encoding", b"identity").lower() != b"identity":
        yield WrongContentType("The body is compressed.", hint="Send it as it is, without Content-Encoding.")
    has_body = b"transfer-encoding" in seen or seen.get(b"content-length", b"0") != b"0"
    if b"upgrade" in seen and has_body:  # the parser would take it for the new protocol's
        yield MalformedRequest("There is a body, and the header Upgrade.", hint="Send it as HTTP/1.1, without Upgrade.")
    if not url.startswith((b"/", b"*")) and _host_of(url) != seen.get(b"host", b"").lower():
        yield MalformedRequest("The URL and the header Host name different hosts.")


def _host_of(url: bytes) -> bytes:
    return url.partition(b"://")[2].partition(b"/")[0].partition(b"?")[0].lower()


class Connection(HttpToolsProtocol):
    """One connection. `look` is called now and then: that costs less than timers for each request."""

    terms: ClassVar[Terms]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """One more, or one too many."""
        super().connection_made(transport)
        self.url = b""
        self._problem: AigbbError | None = None
        # Since when the head, the body or the other side's farewell is waited for.
        self._head_since: float | None = self.loop.time()
        self._body_since: float | None = None
        self._over_since: float | None = None
        self._stalled_since, self._unsent = 0.0, 0
        self._received = 0
        if len(self.connections) > self.terms.connections + TOLD:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        """Parse what came, as long as it is no more than there may be."""
        if self._over_since is not None:
            return
        if self._head_since is None and self._body_since is None:
            self._head_since = self.loop.time()
        self._received += len(data)
        super().data_received(data)
        if self._body_since is None and self._received > self.terms.max_headers + MAX_URL:
            self._refuse(HeadersTooLarge("The headers do not end."))
        elif self._received > self._most:
            self._refuse(BodyTooLarge("The body does not end."))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; what comes behind a body is none."""
        if self._body_since is None:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Hand the request on, unless something is wrong with it."""
        if len(self.connections) > self.terms.connections:
            self._problem = TooManyConnections("The service has no connection left.", retry_after=1)
            raise self._problem
        for problem in faults(self.url, self.headers, self.terms):
            self._problem = problem
            raise problem
        self._head_since, self._body_since, self._received = None, self.loop.time(), 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The body is there; what comes now is another request."""
        self._body_since, self._received = None, 0
        if self.cycle.response_complete:  # nobody else will wait for that one
            self._head_since = self.loop.time()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Say what was wrong with a request that could not be parsed."""
        self._refuse(self._problem or MalformedRequest(msg))

    def look(self, now: float) -> None:
        """Let go of the client if it takes too long to ask, or to take the answer."""
        terms = self.terms
        unsent = self.transport.get_write_buffer_size()
        if unsent != self._unsent or not unsent:
            self._unsent, self._stalled_since = unsent, now
        farewell = now - self._over_since if self._over_since is not None else 0.0
        if now - self._stalled_since > terms.stall_seconds or farewell > FAREWELL:
            self.transport.abort()
        elif self.flow.read_paused or self._is_answering:
            self._head_since = self._head_since and now
            self._body_since = self._body_since and now
        elif self._body_since is not None and now - self._body_since > terms.body_seconds:
            self._refuse(RequestTimedOut(f"The body did not come within {terms.body_seconds:g} seconds."))
        elif self._head_since is not None and now - self._head_since > terms.header_seconds:
            self._refuse(RequestTimedOut(f"The headers did not come within {terms.header_seconds:g} seconds."))

    @property
    def _most(self) -> int:
        """Bytes of a request at most. Of one that is refused, more: who sends first and reads later sees why."""
        most = OVERHEAD * self.terms.max_body + self.terms.max_headers
        return max(most, DISCARDED) if self.cycle is not None and self.cycle.response_complete else most

    @property
    def _is_answering(self) -> bool:
        """Whether a request that is whole waits for its answer; of one that is not, `look` has to know."""
        return self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body

    def _refuse(self, problem: AigbbError) -> None:
        """Answer, unless an answer has begun, and close: not at once, or the other side would not read it."""
        if self._over_since is not None or self.transport.is_closing():
            return
        self._over_since = self.loop.time()
        if self._can_answer:
            self.transport.write(_answer(problem, self.url))
            self.transport.write_eof()
        else:
            self.transport.close()
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    @property
    def _can_answer(self) -> bool:
        if self.cycle is None or self.cycle.response_complete:
            return self._body_since is None  # else its answer is out, and the rest of the body still comes
        return self._body_since is not None and not self.cycle.response_started and not self.pipeline


def bounded(terms: Terms) -> type[Connection]:
    """The protocol for a server with these terms."""
    return type("Bounded", (Connection,), {"terms": terms})


def _answer(problem: AigbbError, url: bytes) -> bytes:
    identity = os.urandom(16).hex()
    path = url.partition(b"?")[0].decode("ascii", "replace")[:200]
    body = to_json(members(problem, path, identity))
    status = http.HTTPStatus(problem.status)
    retry = f"retry-after: {problem.extra['retry_after']}\r\n" if "retry_after" in problem.extra else ""
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: {PROBLEM_TYPE}\r\ncontent-length: {len(body)}\r\n"
        f"x-request-id: {identity}\r\ncache-control: no-store\r\n{retry}connection: close\r\n\r\n"
    )
    return head.encode() + body
