"""The log: one line an event, what is in it, and what can't get into it."""

from __future__ import annotations

import io
import json
import logging
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import httpx2
import pytest
import structlog

from server.logs import MAX_MEMBERS, MAX_TRACEBACK, MAX_VALUE, Lines, configure_logs
from server.observing import Changed, Lost, Served, Stage, Turned
from server.scrubbing import Scrubber
from tests.conftest import Server
from tests.doors import execute, register, source_of, wait_until

Written = Callable[[], list[dict[str, Any]]]


def lines_of(server: Server, event: str, **members: Any) -> list[dict[str, Any]]:
    """The lines of an event that have these members."""
    found = [json.loads(line) for line in list(server.said) if line.startswith("{")]
    return [line for line in found if line["event"] == event and members.items() <= line.items()]


# -- of a service


def test_a_request_has_its_line_and_what_it_ran_too(server: Server, client: httpx2.Client) -> None:
    session = client.post("/sessions").json()["id"]
    asked = client.post(
        "/functions/word_count/call",
        json={"text": "never-in-the-log"},
        params={"session": session},
        headers={"X-Request-ID": "seen-1"},
    )
    assert asked.status_code == 200
    client.delete(f"/sessions/{session}")
    wait_until(lambda: bool(lines_of(server, "request", request_id="seen-1")))
    [request] = lines_of(server, "request", request_id="seen-1")
    assert request.items() >= {"method": "POST", "route": "/functions/{name}/call", "status": 200}.items()
    assert request["key"]
    assert request["ms"] > 0
    [execution] = lines_of(server, "execution", request_id="seen-1")
    assert execution.items() >= {"kind": "call", "outcome": "ok", "session": session}.items()
    assert execution["functions"] == ["word_count@1"]
    assert execution["execution_id"] == asked.json()["id"] == asked.headers["x-execution-id"]
    assert {"queue_ms", "start_ms", "run_ms"} <= execution.keys()
    assert execution["execution_id"].startswith("ex_")


def test_a_registration_has_its_stages(server: Server, client: httpx2.Client) -> None:
    client.headers["X-Request-ID"] = "seen-2"
    register(client, source_of("logged"))
    client.headers["X-Request-ID"] = "seen-3"
    client.post("/register", json={"source": f"import nope\n{source_of('logged')}"})
    client.delete("/functions/logged")
    wait_until(lambda: bool(lines_of(server, "registration", action="delete", functions=["logged"])))
    [good] = lines_of(server, "registration", request_id="seen-2")
    assert (good["outcome"], good["functions"]) == ("ok", ["logged"])
    assert list(good["stages"]) == ["parse", "resolve", "build", "verify", "switch", "publish"]
    [bad] = lines_of(server, "registration", request_id="seen-3", action="register")
    assert (bad["outcome"], bad["failed_in"]) == ("missing_dependency", "verify")


def test_nothing_of_what_is_run_or_said_is_in_it(server: Server, client: httpx2.Client) -> None:
    secret = "hush-5d1c"
    execute(client, f"print('{secret}'); raise ValueError('{secret}')")
    client.post("/functions/word_count/call", json={"text": secret, secret: 1})
    client.post("/execute", json={"code": secret, "timeout": secret})
    client.get(f"/functions/{secret}", params={"x": secret})
    httpx2.get(f"{server.url}/functions", headers={"Authorization": f"Bearer {secret}", "User-Agent": secret})
    client.get("/functions", headers={"X-Request-ID": "seen-4"})
    wait_until(lambda: bool(lines_of(server, "request", request_id="seen-4")))
    assert secret not in "".join(server.said)
    assert server.token not in "".join(server.said)


def test_who_leaves_is_no_fault_of_the_service(server: Server, client: httpx2.Client) -> None:
    headers = {"X-Request-ID": "seen-5"}
    with pytest.raises(httpx2.ReadTimeout):
        client.post("/execute", json={"code": "while True: pass"}, headers=headers, timeout=0.5)
    wait_until(lambda: bool(lines_of(server, "request", request_id="seen-5")))
    [line] = lines_of(server, "request", request_id="seen-5")
    assert line["status"] == 499
    client.get("/functions", headers={"X-Request-ID": "seen-6"})
    wait_until(lambda: bool(lines_of(server, "request", request_id="seen-6")))
    assert [line for line in list(server.said) if "seen-5" in line and '"error"' in line] == []


def test_what_is_no_request_is_refused_and_leaves_no_trace_of_a_fault(server: Server, client: httpx2.Client) -> None:
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port)) as line:
        line.sendall(b"no request at all\r\n\r\n")
        assert b"400" in line.recv(1000)
    client.get("/functions", headers={"X-Request-ID": "after-no-request"})
    wait_until(lambda: bool(lines_of(server, "request", request_id="after-no-request")))
    assert lines_of(server, "request.bug") == []
    assert lines_of(server, "Invalid HTTP request received.") == []


def test_health_and_figures_have_no_line(server: Server, client: httpx2.Client) -> None:
    for path in ("/healthz", "/metrics", "/functions"):
        client.get(path, headers={"X-Request-ID": f"quiet{path.replace('/', '.')}"})
    wait_until(lambda: bool(lines_of(server, "request", request_id="quiet.functions")))
    assert lines_of(server, "request", request_id="quiet.healthz") == []
    assert lines_of(server, "request", request_id="quiet.metrics") == []


# -- without one


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[Written]:
    """The lines of a log that was just configured."""
    file = io.StringIO()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", file)
        configure_logs("info")
    yield lambda: [json.loads(line) for line in file.getvalue().splitlines()]
    structlog.reset_defaults()
    root.handlers[:], root.level = handlers, level


@pytest.mark.parametrize("bad", ["\n", "\r\n", "\x1b[31m", "\x85", "\u2028", "\u202e", "\x00", "\x7f"])
def test_a_value_can_not_pass_for_a_line_nor_command_a_terminal(written: Written, bad: str) -> None:
    structlog.get_logger().info("seen", value=f"a{bad}b", listed=[f"a{bad}b"], members={f"a{bad}b": f"a{bad}b"})
    logging.getLogger("elsewhere").warning("they said a%sb", bad)
    one, other = written()
    escaped = f"a{bad.encode('unicode_escape').decode()}b"
    assert (one["value"], one["listed"], one["members"]) == (escaped, [escaped], {escaped: escaped})
    assert other["event"] == f"they said {escaped}"


def test_long_values_are_cut(written: Written) -> None:
    structlog.get_logger().info("seen", value="x" * 10_000, listed=list(range(1000)))
    [line] = written()
    assert line["value"] == "x" * MAX_VALUE + "... (10000 characters)"
    assert len(line["listed"]) == MAX_MEMBERS


def test_a_traceback_keeps_its_ends(written: Written) -> None:
    try:
        raise ValueError("first\x1b " + "x" * 20_000 + " last")
    except ValueError as error:
        structlog.get_logger().error("seen", exc_info=error)
    [line] = written()
    assert line["exception"].startswith("Traceback (most recent call last):\n")
    assert "\x1b" not in line["exception"]
    assert line["exception"].endswith(" last")
    assert len(line["exception"]) < MAX_TRACEBACK + 100


def test_other_packages_are_heard_from_warnings_on(written: Written) -> None:
    logging.getLogger("httpx").info("GET https://secret.example")
    logging.getLogger("uvicorn.error").error("worse", exc_info=OSError("the disk"))
    [line] = written()
    assert (line["event"], line["logger"], line["level"]) == ("worse", "uvicorn.error", "error")
    assert "the disk" in line["exception"]


def test_lines_for_each_request_can_be_left_out(written: Written) -> None:
    for requests in (True, False):
        lines = Lines(requests=requests)
        lines.note(Served("GET", "/functions", 200, 0.1, "k"))
        lines.note(Served("GET", "/healthz", 421, 0.1, ""))
        lines.note(Turned("done", 0.2))
        lines.note(Changed("delete", "ok", ("f",), 0.0, 1.0, (Stage("resolve", 0.0, 0.5, ok=True),)))
        lines.note(Lost("exit"))
    told = [line["event"] for line in written()]
    assert told == ["request", "request", "chat.turn", "registration", "kernel.lost", "registration", "kernel.lost"]


def test_secrets_are_taken_out_before_anything_is_cut(written: Written) -> None:
    scrubber = Scrubber.of([("hunter22-value", "[secret KEY]")])
    file = cast(io.StringIO, structlog.get_config()["logger_factory"]._file)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "stderr", file)
        configure_logs("info", scrubber.json)
    log = structlog.get_logger()
    log.info("seen hunter22-value", value="x" * (MAX_VALUE - 5) + "hunter22-value", path=Path("/hunter22-value"))
    try:
        raise ValueError("hunter22-value")
    except ValueError:
        log.exception("failed")
    logging.getLogger("other").warning("%s", "hunter22-value")
    lines = written()
    assert lines[0]["event"] == "seen [secret KEY]"
    assert lines[0]["path"] == "/[secret KEY]"
    assert "hunter22" not in json.dumps(lines)
    assert (lines[1]["exception"].splitlines()[-1], lines[2]["event"]) == ("ValueError: [secret KEY]", "[secret KEY]")
