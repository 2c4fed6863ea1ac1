"""The protocol below the application: what it refuses, when it lets go, in a real server on real sockets.

`look` is told what time it is, so that no test waits for a deadline.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from server.errors import AigbbError
from server.protocol import FAREWELL, MAX_URL, TOLD, Connection, Terms, bounded, faults

pytestmark = pytest.mark.anyio

TERMS = Terms(
    max_headers=4096, max_body=1024, header_seconds=10, body_seconds=60, stall_seconds=30, connections=5
)  # fmt: skip
HEAD = b"POST /echo HTTP/1.1\r\nHost: here\r\n"
LENGTH = b"Content-Length: 5\r\n"


@dataclass
class Site:
    """A server with one application: it answers the body, or as many bytes as the query says."""

    port: int
    state: ServerState
    asked: list[Scope]
    gone: asyncio.Event
    go_on: asyncio.Event
    writers: list[asyncio.StreamWriter]

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, Connection]:
        """A connection, from both sides."""
        before = set(self.state.connections)
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1024)
        while not (new := set(self.state.connections) - before):
            await asyncio.sleep(0)
        [connection] = new
        self.writers.append(writer)
        assert isinstance(connection, Connection)
        return reader, writer, connection

    async def send(self, data: bytes) -> tuple[int, dict[str, str], bytes]:
        """One request's status, headers and body."""
        reader, writer, _ = await self.connect()
        writer.write(data)
        return await response(reader)


@asynccontextmanager
async def site(terms: Terms = TERMS) -> AsyncIterator[Site]:
    """A running one."""
    asked: list[Scope] = []
    gone, go_on = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        asked.append(scope)
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message["more_body"]:
                break
        else:
            gone.set()
            return
        if scope["path"] == "/slow":
            await go_on.wait()
        body = b"x" * int(scope["query_string"] or 0) or body
        length = (b"content-length", b"%d" % len(body))
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": body})

    config = uvicorn.Config(app, ws="none", lifespan="off", log_level="error", access_log=False, log_config=None)
    config.load()
    state = ServerState()
    kind = bounded(terms)
    server = await asyncio.get_running_loop().create_server(lambda: kind(config, state, {}), "127.0.0.1", 0)
    try:
        here = Site(server.sockets[0].getsockname()[1], state, asked, gone, go_on, [])
        yield here
    finally:
        server.close()
        for writer in here.writers:
            writer.close()
        for one in list(state.connections):
            one.transport.abort()
        while state.connections or state.tasks:
            await asyncio.sleep(0)


async def response(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """What comes back."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
    return int(head[0].split()[1]), headers, await reader.readexactly(int(headers["content-length"]))


async def is_over(reader: asyncio.StreamReader) -> bool:
    """Whether nothing comes any more."""
    try:
        return await reader.read() == b""
    except ConnectionResetError:
        return True


def code(answer: tuple[int, dict[str, str], bytes], status: int) -> str:
    """The code of a problem that closes the connection."""
    assert answer[0] == status
    assert answer[1]["content-type"] == "application/problem+json"
    assert answer[1]["connection"] == "close"
    body = json.loads(answer[2])
    assert body["status"] == status
    assert body["hint"]
    assert body["request_id"] == answer[1]["x-request-id"]
    return str(body["code"])


async def test_a_plain_request_is_answered_and_the_connection_kept() -> None:
    async with site() as here:
        reader, writer, _ = await here.connect()
        for _ in range(2):
            writer.write(HEAD + LENGTH + b"\r\nhello")
            status, headers, body = await response(reader)
            assert (status, body) == (200, b"hello")
            assert "connection" not in headers


# -- what a request claims


def found(url: bytes, *headers: tuple[bytes, bytes]) -> Iterable[AigbbError]:
    """The faults of a request with these headers."""
    return list(faults(url, headers, TERMS))


@pytest.mark.parametrize("url", [b"/", b"*", b"/a?b=c", b"http://here/", b"http://HERE?x", b"http://here"])
def test_nothing_is_wrong_with(url: bytes) -> None:
    assert found(url, (b"host", b"Here"), (b"transfer-encoding", b"Chunked"), (b"content-encoding", b"identity")) == []


@pytest.mark.parametrize("name", [b"host", b"authorization", b"content-type", b"content-length", b"transfer-encoding"])
def test_what_nobody_may_say_twice(name: bytes) -> None:
    [problem] = found(b"/", (name, b"chunked"), (name, b"chunked"))
    assert (problem.code, problem.status) == ("malformed_request", 400)
    assert name.decode().title() in problem.detail
    assert found(b"/", (b"accept", b"a"), (b"accept", b"b")) == []


@pytest.mark.parametrize(
    ("url", "header", "status"),
    [
        (b"http://there/", (b"host", b"here"), 400),
        (b"http://here:81/", (b"host", b"here:80"), 400),
        (b"http://user@here/", (b"host", b"here"), 400),
        (b"/", (b"transfer-encoding", b"gzip, chunked"), 400),
        (b"/", (b"transfer-encoding", b"identity"), 400),
        (b"/", (b"content-encoding", b"gzip"), 415),
        (b"/" + b"a" * MAX_URL, (b"host", b"here"), 414),
        (b"/", (b"x", b"a" * 4096), 431),
    ],
)
def test_what_is_refused_by_its_head(url: bytes, header: tuple[bytes, bytes], status: int) -> None:
    assert next(iter(found(url, header))).status == status


def test_there_may_be_a_hundred_headers() -> None:
    headers = [(b"x%d" % number, b"a") for number in range(101)]
    assert found(b"/", *headers[:100]) == []
    assert [one.code for one in found(b"/", *headers)] == ["headers_too_large"]


@pytest.mark.parametrize(
    ("data", "status", "problem"),
    [
        (HEAD + LENGTH + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "malformed_request"),
        (HEAD + b"Transfer-Encoding: chunked\r\n" + LENGTH + b"\r\n0\r\n\r\n", 400, "malformed_request"),
        (HEAD + LENGTH + LENGTH + b"\r\nhello", 400, "malformed_request"),
        (HEAD + LENGTH + b"Content-Length: 6\r\n\r\nhello", 400, "malformed_request"),
        (HEAD + b"Content-Length: +5\r\n\r\nhello", 400, "malformed_request"),
        (HEAD + b"Host: there\r\n\r\n", 400, "malformed_request"),
        (HEAD + b"X-A : b\r\n\r\n", 400, "malformed_request"),
        (HEAD + b"X-A: b\r\n c\r\n\r\n", 400, "malformed_request"),
        (HEAD + b"X-A: b\0c\r\n\r\n", 400, "malformed_request"),
        (HEAD.replace(b"\r\n", b"\n") + b"\n", 400, "malformed_request"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400, "malformed_request"),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", 400, "malformed_request"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "malformed_request"),
        (b"GET /" + b"a" * MAX_URL + b" HTTP/1.1\r\n\r\n", 414, "url_too_long"),
        (HEAD + b"X: " + b"a" * 4096 + b"\r\n\r\n", 431, "headers_too_large"),
        (HEAD + b"X: " + b"a" * (4096 + MAX_URL), 431, "headers_too_large"),
    ],
)
async def test_what_is_no_request_is_told_so(data: bytes, status: int, problem: str) -> None:
    async with site() as here:
        assert code(await here.send(data), status) == problem


async def test_headers_without_an_end_are_not_kept() -> None:
    async with site() as here:
        reader, writer, _ = await here.connect()
        writer.write(HEAD)
        for number in range(3 * MAX_URL // 100):
            writer.write(b"X-%d: %s\r\n" % (number, b"a" * 100))
        assert code(await response(reader), 431) == "headers_too_large"
        assert await is_over(reader)
        assert here.asked == []


async def test_what_comes_behind_a_body_is_no_header() -> None:
    async with site() as here:
        data = HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nIdempotency-Key: k\r\nHost: there\r\n\r\n"
        assert (await here.send(data))[::2] == (200, b"hello")
        assert [name for name, _ in here.asked[0]["headers"]] == [b"host", b"transfer-encoding"]


async def test_a_body_that_is_all_packaging_comes_to_an_end() -> None:
    async with site() as here:
        reader, writer, _ = await here.connect()
        writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(1000):
            writer.write(b"1;" + b"e" * 1000 + b"\r\nx\r\n")
            await asyncio.sleep(0)
        assert code(await response(reader), 413) == "body_too_large"
        await here.gone.wait()


@pytest.mark.parametrize("protocol", [b"websocket", b"h2c"])
async def test_an_upgrade_is_declined_by_answering(protocol: bytes) -> None:
    upgrade = b"Connection: Upgrade\r\nUpgrade: " + protocol + b"\r\n"
    async with site() as here:
        reader, writer, _ = await here.connect()
        for _ in range(2):
            writer.write(b"GET /?5 HTTP/1.1\r\nHost: here\r\n" + upgrade + b"\r\n")
            assert (await response(reader))[::2] == (200, b"xxxxx")
        writer.write(HEAD + LENGTH + b"\r\nhello")
        assert (await response(reader))[::2] == (200, b"hello")
        # The parser would take the body for the first bytes of another protocol.
        writer.write(HEAD + upgrade + LENGTH + b"\r\n")
        assert code(await response(reader), 400) == "malformed_request"


# -- who is waited for, and how long


@pytest.mark.parametrize("begun", [b"", b"POST", HEAD, b"\r\n"])
async def test_headers_have_a_deadline(begun: bytes) -> None:
    async with site() as here:
        reader, writer, connection = await here.connect()
        start = connection.loop.time()
        writer.write(begun)
        connection.look(start + 9)
        writer.write(b"")
        connection.look(start + 11)
        assert code(await response(reader), 408) == "request_timed_out"
        assert await is_over(reader)


async def test_headers_that_come_bit_by_bit_have_no_more_time() -> None:
    async with site() as here:
        reader, writer, connection = await here.connect()
        start = connection._head_since
        assert start is not None
        for number, byte in enumerate(HEAD):
            writer.write(bytes([byte]))
            await asyncio.sleep(0)
            connection.look(start + number)
            if connection.transport.is_closing() or connection._over_since is not None:
                break
        assert number == 11
        assert code(await response(reader), 408) == "request_timed_out"


async def test_a_body_has_a_deadline_and_the_application_hears_of_it() -> None:
    async with site() as here:
        reader, writer, connection = await here.connect()
        writer.write(HEAD + LENGTH + b"\r\nhel")
        while not here.asked:
            await asyncio.sleep(0)
        now = connection.loop.time()
        connection.look(now + 59)
        assert not here.gone.is_set()
        connection.look(now + 61)
        assert code(await response(reader), 408) == "request_timed_out"
        await here.gone.wait()


async def test_who_waits_for_an_answer_is_waited_for() -> None:
    async with site() as here:
        reader, writer, connection = await here.connect()
        writer.write(HEAD.replace(b"echo", b"slow") + LENGTH + b"\r\nhello" + b"POST")
        while not here.asked:
            await asyncio.sleep(0)
        connection.look(connection.loop.time() + 3600)
        here.go_on.set()
        assert (await response(reader))[::2] == (200, b"hello")


async def test_a_second_request_on_a_connection_has_its_own_deadline() -> None:
    async with site() as here:
        reader, writer, connection = await here.connect()
        writer.write(HEAD + LENGTH + b"\r\nhello")
        await response(reader)
        connection.look(connection.loop.time() + 3600)  # an idle connection has another one
        writer.write(HEAD)
        while connection._head_since is None:
            await asyncio.sleep(0)
        connection.look(connection.loop.time() + 11)
        assert code(await response(reader), 408) == "request_timed_out"


async def test_who_reads_nothing_is_let_go() -> None:
    async with site() as here:
        reader, writer, connection = await here.connect()
        writer.write(HEAD.replace(b"/echo", b"/echo?50000000") + LENGTH + b"\r\nhello")
        while not connection.transport.get_write_buffer_size():
            await asyncio.sleep(0)
        before = -1
        while before != (before := connection.transport.get_write_buffer_size()):
            await asyncio.sleep(0.05)  # until what lies between us is full
        now = connection.loop.time()
        connection.look(now)
        connection.look(now + 29)
        assert not connection.transport.is_closing()
        connection.look(now + 31)
        while here.state.connections:
            await asyncio.sleep(0)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await reader.readexactly(50_000_000)


async def test_who_reads_slowly_is_not() -> None:
    async with site() as here:
        reader, writer, connection = await here.connect()
        writer.write(HEAD.replace(b"/echo", b"/echo?20000000") + LENGTH + b"\r\nhello")
        await reader.readuntil(b"\r\n\r\n")
        now = connection.loop.time()
        for number in range(20):
            await reader.readexactly(1_000_000)
            connection.look(now + number * 20)


async def test_who_was_refused_and_stays_is_let_go() -> None:
    async with site() as here:
        reader, writer, connection = await here.connect()
        writer.write(b"no request\r\n\r\n")
        assert code(await response(reader), 400) == "malformed_request"
        writer.write(b"what comes then is not read")
        connection.look(connection.loop.time() + FAREWELL + 0.1)
        while here.state.connections:
            await asyncio.sleep(0)


# -- how many


async def test_one_connection_too_many_is_told_so_and_one_less_is_not() -> None:
    async with site() as here:
        held = [await here.connect() for _ in range(5)]
        answer = await here.send(HEAD + LENGTH + b"\r\nhello")
        assert code(answer, 503) == "too_many_connections"
        assert answer[1]["retry-after"] == "1"
        held[0][1].close()
        here.writers[-1].close()
        while len(here.state.connections) > 4:
            await asyncio.sleep(0)
        assert (await here.send(HEAD + LENGTH + b"\r\nhello"))[0] == 200


async def test_so_many_more_are_not_even_waited_for() -> None:
    async with site(replace(TERMS, connections=1)) as here:
        for _ in range(1 + TOLD):
            await here.connect()
        reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
        assert await is_over(reader)
        writer.close()
