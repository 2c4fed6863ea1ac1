"""The edge of the service as raw sockets find it: what it takes, what it refuses with which code, whom it lets go."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.conftest import Server, running_server
from tests.doors import problem, wait_until

CODE = b'{"code": "6 * 7"}'
DEEP = b"[" * 100_000 + b"]" * 100_000
JSON = ("Content-Type", "application/json")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Server]:
    """A service that has little patience."""
    folder = tmp_path_factory.mktemp("guarded")
    tight = {"rate": "30/hour", "key_running": 2, "guess_rate": "3/hour"}
    with running_server(folder, cache, header_seconds=0.5, cors_origins="https://a.example", **tight) as started:
        yield started


def connected(server: Server) -> socket.socket:
    """A connection."""
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def raw(server: Server, data: bytes) -> tuple[int, dict[str, str], bytes]:
    """What comes back for these bytes."""
    with connected(server) as line, line.makefile("rb") as answer:
        line.sendall(data)
        status = int(answer.readline().split()[1])
        headers = {}
        while (text := answer.readline().decode().strip()) != "":
            name, _, value = text.partition(": ")
            headers[name.lower()] = value
        return status, headers, answer.read(int(headers["content-length"]))


def asking(server: Server, path: str, body: bytes = CODE, *headers: tuple[str, str]) -> bytes:
    """A POST with the key, of exactly these headers besides."""
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Bearer {server.token}"]
    lines += [f"Content-Length: {len(body)}", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def code_of(body: bytes) -> str:
    """The code of a problem."""
    found: dict[str, Any] = json.loads(body)
    assert found["hint"]
    assert found["type"] == f"urn:aigbb:problem:{found['code']}"
    return str(found["code"])


# -- bodies


@pytest.mark.parametrize(
    "kind",
    ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=b", "text/plain; x=json"],
)
@pytest.mark.parametrize("path", ["/execute", "/functions/word_count/call", "/sessions", "/register"])
def test_json_that_is_not_declared_is_refused_with_the_header_to_add(server: Server, path: str, kind: str) -> None:
    status, _, body = raw(server, asking(server, path, CODE, *([("Content-Type", kind)] if kind else [])))
    assert (status, code_of(body)) == (415, "wrong_content_type")
    assert "Content-Type: application/json" in json.loads(body)["hint"]


@pytest.mark.parametrize("path", ["/execute", "/functions/word_count/call"])
@pytest.mark.parametrize(
    "body",
    [
        pytest.param(CODE.decode().encode("utf-16"), id="utf-16"),
        pytest.param(CODE.decode().encode("utf-16-le"), id="utf-16-le"),
        pytest.param(CODE.decode().encode("utf-32"), id="utf-32"),
        pytest.param(b'{"code": "\xff"}', id="latin-1"),
        pytest.param(DEEP, id="deep"),
        pytest.param(b'{"code": ' + DEEP + b"}", id="deep in a field"),
        pytest.param(b'{"text": ' + b"9" * 5000 + b"}", id="a number of 5000 digits"),
        pytest.param(b"{", id="unfinished"),
        pytest.param(b"\0", id="nothing"),
    ],
)
def test_what_is_no_json_is_told_so(server: Server, path: str, body: bytes) -> None:
    status, _, answer = raw(server, asking(server, path, body, JSON))
    assert (status, code_of(answer)) == (400, "invalid_json")


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1"])
def test_numbers_that_are_none_are_refused(server: Server, number: bytes) -> None:
    status, _, body = raw(server, asking(server, "/execute", b'{"code": "1", "timeout": ' + number + b"}", JSON))
    assert (status, code_of(body)) == (422, "invalid_request")
    path = f"/functions/word_count/call?timeout={number.decode()}"
    status, _, body = raw(server, asking(server, path, b'{"text": "a"}', JSON))
    assert (status, code_of(body)) == (422, "invalid_request")


def test_lone_surrogates_do_no_harm(server: Server) -> None:
    for body in (b'{"code": "\'\\ud800\'"}', b'{"\\ud800": 1, "code": "1"}', b'{"code": "1", "session": "\\udfff"}'):
        status, _, answer = raw(server, asking(server, "/execute", body, JSON))
        assert (status, code_of(answer)) == (422, "invalid_request")
    status, _, answer = raw(server, asking(server, "/execute", b'{"code": "chr(0xd800)"}', JSON))
    assert (status, json.loads(answer)["status"]) == (200, "ok")
    status, _, answer = raw(server, asking(server, "/functions/%ED%A0%80/call", b"{}", JSON))
    assert (status, code_of(answer)) == (404, "unknown_function")


@pytest.mark.parametrize("key", ["right", "wrong"])
@pytest.mark.parametrize("chunked", [False, True])
def test_who_sends_first_and_reads_later_sees_why(server: Server, key: str, chunked: bool) -> None:
    size, piece = 24 * 1024 * 1024, b"x" * 65536
    token = server.token if key == "right" else "wrong"
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {size}"
    head = f"POST /execute HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
    with connected(server) as line, line.makefile("rb") as answer:
        line.sendall(f"{head}Content-Type: application/json\r\n{length}\r\n\r\n".encode())
        for _ in range(size // len(piece)):
            line.sendall(b"10000\r\n" + piece + b"\r\n" if chunked else piece)
        assert int(answer.readline().split()[1]) == (413 if key == "right" else 401)


def test_who_never_stops_sending_is_cut_off(server: Server) -> None:
    with connected(server) as line:
        line.sendall(
            asking(server, "/execute", b"", ("Transfer-Encoding", "chunked")).replace(b"Content-Length: 0\r\n", b"")
        )
        with pytest.raises(OSError):
            for _ in range(4096):
                line.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")


def test_a_body_is_counted_while_it_comes(server: Server) -> None:
    size = 1024 * 1024
    status, _, body = raw(server, asking(server, "/execute", b" " * (size + 1) + CODE, JSON))
    assert (status, code_of(body)) == (413, "body_too_large")
    head = asking(server, "/execute", b"", JSON).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    status, _, body = raw(server, head + b"%x\r\n" % (size + 1) + b" " * (size + 1))
    assert (status, code_of(body)) == (413, "body_too_large")


@pytest.mark.parametrize("number", [str(2**53), str(2**64), "-1", "0"])
def test_numbers_that_nothing_can_have_are_refused(client: httpx2.Client, number: str) -> None:
    for path in (f"versions/{number}", f"versions/{number}/diff", f"versions/1/diff?against={number}"):
        problem(client.get(f"/functions/word_count/{path}"), 422, "invalid_request")
    problem(client.get("/history", params={"before": number}), 422, "invalid_request")
    body = {"version": int(number)}
    problem(client.post("/functions/word_count/activate", json=body), 422, "invalid_request")


# -- heads


@pytest.mark.parametrize(
    ("header", "status", "code"),
    [
        (("Host", "127.0.0.1"), 400, "malformed_request"),
        (("Host", "evil.example"), 400, "malformed_request"),
        (("Authorization", "Bearer x"), 400, "malformed_request"),
        (("Content-Type", "text/plain"), 400, "malformed_request"),
        (("Content-Length", "17"), 400, "malformed_request"),
        (("Transfer-Encoding", "chunked"), 400, "malformed_request"),
        (("Content-Encoding", "gzip"), 415, "wrong_content_type"),
        (("X-Large", "a" * 40_000), 431, "headers_too_large"),
    ],
)
def test_what_could_be_read_in_two_ways_is_not_read(
    server: Server, header: tuple[str, str], status: int, code: str
) -> None:
    for data in (asking(server, "/execute", CODE, JSON, header), asking(server, "/execute", CODE, header, JSON)):
        got, headers, body = raw(server, data)
        assert (got, code_of(body)) == (status, code)
        assert headers["connection"] == "close"


def test_a_url_has_a_length(client: httpx2.Client) -> None:
    answer = client.get("/functions", params={"q": "a" * 20_000})
    assert (answer.status_code, answer.json()["code"]) == (414, "url_too_long")


def test_405_names_every_method_of_the_path(client: httpx2.Client) -> None:
    for path, allowed in {"/functions/x": "DELETE, GET", "/sessions": "GET, POST", "/execute": "POST"}.items():
        answer = client.patch(path)
        problem(answer, 405, "method_not_allowed")
        assert answer.headers["allow"] == allowed


def test_no_answer_sets_a_cookie(client: httpx2.Client) -> None:
    client.get("/functions")
    client.get("/docs")
    client.get("/nowhere")
    assert not client.cookies


# -- pages of other origins


def preflight(url: str, origin: str) -> httpx2.Response:
    """What a browser asks before a page may."""
    headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    return httpx2.options(f"{url}/execute", headers={**headers, "Access-Control-Request-Headers": "authorization"})


def test_no_page_may_call_unless_its_origin_is_set(server: Server, guarded: Server) -> None:
    assert preflight(server.url, "https://a.example").status_code == 401
    assert "access-control-allow-origin" not in preflight(server.url, "https://a.example").headers
    answer = preflight(guarded.url, "https://a.example")
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://a.example"
    assert "access-control-allow-credentials" not in answer.headers
    for other in ("https://b.example", "http://a.example", "https://a.example:8443", "https://x.a.example", "null"):
        assert preflight(guarded.url, other).status_code == 400
        assert "access-control-allow-origin" not in preflight(guarded.url, other).headers


def test_a_page_reads_refusals_too_and_still_needs_a_key(guarded: Server) -> None:
    answer = httpx2.get(f"{guarded.url}/functions", headers={"Origin": "https://a.example"})
    problem(answer, 401, "unauthorized")
    assert answer.headers["access-control-allow-origin"] == "https://a.example"
    assert "X-Request-ID" in answer.headers["access-control-expose-headers"]


# -- patience


@pytest.mark.parametrize("begun", [b"", b"GET /functions HTTP/1.1\r\nHost: 127.0.0.1\r\n", b"\r\n"])
def test_half_a_head_is_waited_for_so_long(guarded: Server, begun: bytes) -> None:
    status, _, body = raw(guarded, begun)
    assert (status, code_of(body)) == (408, "request_timed_out")


def test_limits_of_a_key(guarded: Server) -> None:
    """One after the other: guesses, requests at once, requests in a window."""
    with guarded.client() as client:
        first = client.get("/functions")
        assert first.status_code == 200
        assert first.headers["ratelimit-policy"] == '"rate";q=30;w=3600, "running";q=2;qu="concurrent-requests"'
        _guess(guarded, client)
        _hold_two(guarded, client)
        while (answer := client.get("/functions")).status_code == 200:
            left = answer.headers["ratelimit"]
        assert left.startswith('"rate";r=0;t=')
        told = problem(answer, 429, "rate_limited")
        assert answer.headers["retry-after"] == str(told["retry_after"])
        assert 3000 < told["retry_after"] <= 3600
        answer = client.post("/v1/chat/completions", json={})
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "rate_limited")
        assert client.get("/healthz").status_code == 200


def _guess(guarded: Server, client: httpx2.Client) -> None:
    for _ in range(3):
        with guarded.client("wrong") as stranger:
            problem(stranger.get("/functions"), 401, "unauthorized")
    with guarded.client("perhaps") as stranger:
        answer = stranger.get("/functions")
        problem(answer, 429, "rate_limited")
        assert int(answer.headers["retry-after"]) > 3000
    assert client.get("/functions").status_code == 200


def _hold_two(guarded: Server, client: httpx2.Client) -> None:
    endless = asking(guarded, "/execute", b'{"code": "while True: pass", "timeout": 100}', JSON)
    with connected(guarded) as one, connected(guarded) as two:
        one.sendall(endless)
        two.sendall(endless)
        wait_until(lambda: client.get("/healthz").json()["running"] == 2)
        answer = client.get("/functions")
        problem(answer, 429, "rate_limited")
        assert answer.headers["retry-after"] == "1"
    wait_until(lambda: client.get("/healthz").json()["running"] == 0)
    wait_until(lambda: client.get("/functions").status_code == 200)
