"""Executions on the command line: begun, listed, shown, followed and let go, stopped."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable

import httpx2
import pytest

from tests.conftest import ROOT, Server
from tests.test_cli import run

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def environment(server: Server) -> dict[str, str]:
    """Of commands that find the shared service by its settings."""
    return {**server.environment, "AIGBB_PORT": server.url.rpartition(":")[2]}


def test_it_is_begun_shown_and_followed(environment: dict[str, str]) -> None:
    begun = run(environment, "execute", "--detach", "print('hello')\n1 / 0")
    identity = begun.stdout.strip()
    assert begun.returncode == 0, begun.stderr
    assert f"aigbb executions {identity} --follow" in begun.stderr
    followed = run(environment, "executions", identity, "--follow")
    assert (followed.returncode, followed.stdout) == (1, "hello\n")
    assert "ZeroDivisionError" in followed.stderr
    shown = run(environment, "executions", identity)
    assert shown.stdout.startswith(f"{identity}  error")
    assert "hello\n" in shown.stdout
    assert "ZeroDivisionError" in shown.stderr
    assert identity in run(environment, "executions").stdout


def test_a_call_is_begun_and_its_result_shown(environment: dict[str, str]) -> None:
    begun = json.loads(run(environment, "call", "word_count", "-d", "-a", "text=a b a", "--json").stdout)
    done = json.loads(run(environment, "executions", begun["id"], "--follow", "--json").stdout)
    assert (done["status"], done["answer"]["result"]) == ("ok", {"a": 2, "b": 1})
    assert '"a": 2' in run(environment, "executions", begun["id"]).stdout


def test_who_interrupts_lets_it_go_on(environment: dict[str, str], client: httpx2.Client) -> None:
    code = "import time\nprint('on', flush=True)\ntime.sleep(100)"
    identity = run(environment, "execute", "-d", code, "--timeout", "100").stdout.strip()
    argv = [sys.executable, "-m", "server", "executions", identity, "--follow"]
    with subprocess.Popen(argv, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as following:
        assert following.stdout is not None
        assert following.stdout.readline() == b"on\n"
        following.send_signal(signal.SIGINT)
        assert b"It goes on" in following.communicate()[1]
    assert following.returncode == 0
    assert client.get(f"/executions/{identity}").json()["status"] == "running"
    stopped = run(environment, "executions", identity, "--cancel")
    assert stopped.stdout.startswith(f"{identity}  cancelled")


def test_what_is_not_there_is_said(environment: dict[str, str]) -> None:
    refused = run(environment, "executions", "ex_none")
    assert refused.returncode == 2
    assert "execution_not_found" in refused.stderr
    assert run(environment, "executions", "--follow").returncode == 2
