"""Whatever code does to its kernel: the service serves, the next one is clean, what is registered stays, and the answer
is true. Each row of `tests.faults` against one service, on a clean kernel and in a session."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import psutil
import pytest

from tests.conftest import ROOT, Server, running_server
from tests.doors import call, execute, picture, register, wait_until
from tests.faults import MARK, SOON, TABLE, Fault, rows

SPARES = 1
# Seconds for what ends by itself, however busy the machine is.
LONG = 100.0
# How an execution is stopped, and whether its kernel is there afterwards.
SURVIVED = {"interrupted": True, "killed": False, "not_started": False}

# Executions until what is bound to come has come.
ENOUGH = 1000
# What a kernel's folder is called.
KERNEL = re.compile(r"[0-9a-f]{12}")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Server]:
    """A service that has only what is done to it here."""
    folder = tmp_path_factory.mktemp("faults")
    with running_server(folder, cache, shipped=True, pool_size=SPARES, pool_max=SPARES) as started:
        yield started


@pytest.fixture(scope="module")
def client(own: Server) -> Iterator[httpx2.Client]:
    """A client of it."""
    with own.client() as opened:
        yield opened


# -- what an answer has to say


def untrue(fault: Fault, answer: dict[str, Any], session: str | None) -> list[str]:
    """What is wrong with the answer to a fault."""
    raised = (answer["error_detail"] or {}).get("ename")
    found: list[str | bool] = [
        answer["status"] in fault.status.split() or f"status {answer['status']}: {answer['error']}",
        answer["status"] != "error" or raised in fault.ename.split() or f"raised {raised}",
        answer["status"] in ("ok", "error") or answer["reason"] in fault.reason.split() or f"reason {answer['reason']}",
        *agreeing(answer, session),
    ]
    return [said for said in found if isinstance(said, str)]


def agreeing(answer: dict[str, Any], session: str | None) -> Iterator[str | bool]:
    """Whether the members of an answer say the same."""
    status, reason, lost = answer["status"], answer["reason"], answer["kernel_lost"]
    yield answer["state_preserved"] is (None if session is None else not lost) or "state_preserved is not kernel_lost"
    yield (answer["error"] is None) == (status == "ok") or f"{status} with the error {answer['error']}"
    yield (reason is None) == (status in ("ok", "error")) or f"{status} with the reason {reason}"
    yield reason not in SURVIVED or SURVIVED[reason] is not lost or f"{reason}, and kernel_lost is {lost}"
    yield status != "died" or lost or "died, and not lost"
    yield (answer["exit_code"] is not None) == (reason == "exit") or f"exit code {answer['exit_code']} with {reason}"
    yield (answer["signal"] is not None) == (reason in ("signal", "oom")) or f"{answer['signal']} with {reason}"


def aftermath(client: httpx2.Client, session: str, fault: Fault, said: bool) -> str:
    """What has become of a session's variable: kept, lost, broken, or in words what is not true of that.

    said: that it was lost. A fault that is bound to come is waited for.
    """
    for _ in range(3):
        answer = execute(client, "kept", session=session, timeout=5)
        said = said or answer["state_preserved"] is False
        for _ in range(0 if "kept" in fault.after else ENOUGH):
            if answer["result"] == "42":  # with which it may also be said that the kernel ended after it
                answer = execute(client, "kept", session=session, timeout=5)
                said = said or answer["state_preserved"] is False
        if wrong := [found for found in agreeing(answer, session) if isinstance(found, str)]:
            return str(wrong)
        if answer["result"] == "42":
            return "kept, though it was said to be lost" if said else "kept"
        if answer["error"] == "NameError: name 'kept' is not defined":
            return "lost" if said else "lost, and not said"
        if answer["status"] == "ok":
            return "neither a value nor an error"
    assert client.post(f"/sessions/{session}/restart").status_code == 200
    return "broken" if execute(client, "6 * 7", session=session)["result"] == "42" else "broken for good"


# -- doing it


def suffer(client: httpx2.Client, fault: Fault) -> list[str]:
    """On a clean kernel, and then on the next one."""
    answer = execute(client, fault.code, timeout=SOON if fault.lasts else LONG)
    after = execute(client, "word_count('a b a'), 'kept' in globals()", timeout=LONG)
    clean = after["result"] == "({'a': 2, 'b': 1}, False)" or f"the next one: {after['result']} {after['error']}"
    return [*untrue(fault, answer, None), *([] if clean is True else [clean])]


def suffer_in_session(client: httpx2.Client, fault: Fault) -> list[str]:
    """In a session that has a variable."""
    session = client.post("/sessions").json()["id"]
    try:
        execute(client, "kept = 42", session=session, timeout=LONG)
        answer = execute(client, fault.code, session=session, timeout=SOON if fault.lasts else LONG)
        after = aftermath(client, session, fault, answer["state_preserved"] is False)
        return [*untrue(fault, answer, session), *([] if after in fault.after.split() else [f"after it: {after}"])]
    finally:
        client.delete(f"/sessions/{session}")


def side_by_side(work: Mapping[str, Callable[[], list[str]]]) -> dict[str, list[str]]:
    """Do it all, a few at a time; what was wrong, by name."""
    with ThreadPoolExecutor(4) as threads:
        done = {name: threads.submit(each) for name, each in work.items()}
    return {name: found for name, each in done.items() if (found := each.result())}


# -- what must be left


def nothing_left(client: httpx2.Client, server: Server) -> None:
    """Wait until no process, folder or socket is left but those of kernels that wait."""
    idle = {"status": "ok", "running": 0, "waiting": 0, "sessions": 0, "spares": SPARES}
    wait_until(lambda: idle.items() <= client.get("/healthz").json().items())
    wait_until(lambda: strangers(server) == [])
    wait_until(
        lambda: sum(KERNEL.fullmatch(path.name) is not None for path in (server.home / "work").iterdir()) == SPARES
    )
    # The sockets of a kernel and the file with its key are gone once the service is connected.
    wait_until(lambda: list((server.home / "runtime" / "k").resolve().iterdir()) == [])


def strangers(server: Server) -> list[psutil.Process]:
    """Processes that the service, or code in it, has started, but for its own programs and kernels that wait."""
    found = [p for p in psutil.process_iter() if p.pid not in (os.getpid(), server.process.pid) and is_ours(p, server)]
    forks = [process for process in found if "--warm" in words(process) and words(process)[0].endswith("python")]
    others = [process for process in found if not any(word.endswith("launch.py") for word in words(process))]
    return others if len(forks) == 1 + SPARES else [*forks, *others]


def words(process: psutil.Process) -> list[str]:
    """Its command line."""
    try:
        return list(process.cmdline()) or [""]
    except psutil.Error:
        return [""]


def is_ours(process: psutil.Process, server: Server) -> bool:
    """Whether it has the mark, or belongs to the service's home."""
    try:
        environment = list(process.environ().values())
    except psutil.Error:  # it has ended, or may not be read
        environment = []
    return any(MARK in text or str(server.home) in text for text in (*words(process), *environment))


@pytest.mark.parametrize("group", TABLE)
def test_a_fault_harms_nobody_else_and_is_told_as_it_is(group: str, client: httpx2.Client, own: Server) -> None:
    before = picture(client, own)
    clean = {f"{fault.name}, clean": partial(suffer, client, fault) for fault in TABLE[group]}
    sessions = {f"{fault.name}, in a session": partial(suffer_in_session, client, fault) for fault in TABLE[group]}
    assert side_by_side({**clean, **sessions}) == {}
    nothing_left(client, own)
    assert picture(client, own) == before


# -- as calls

FUNCTIONS = {
    "raises": "raise ValueError('no')",
    "leaves": "os._exit(3)",
    "hangs": "time.sleep(600)",
    "huge": "return 'x' * 20_000_000",
    "shapeless": "return lambda: 1",
    "starts": f"subprocess.Popen(['sh', '-c', ': {MARK}; sleep 600; :'], start_new_session=True); return 1",
    "forges": "kernel = get_ipython().kernel\n    "
    "kernel.session.send(kernel.iopub_socket, 'status', {'execution_state': 'idle'}, parent=kernel.get_parent())\n    "
    "kernel.session.send(kernel.shell_stream, 'aigbb_call_reply', {'status': 'ok', 'content': 'no', 'result': 13},\n"
    "        parent=kernel.get_parent(), ident=kernel._parent_ident['shell'])\n    time.sleep(600)",
}
CALLS: dict[str, tuple[str, str | None, Any]] = {
    "raises": ("error", None, None),
    "leaves": ("died", "exit", None),
    "hangs": ("timeout", "interrupted killed", None),
    "huge": ("ok", None, None),
    "shapeless": ("ok", None, ...),
    "starts": ("ok", None, 1),
    "forges": ("ok", None, 13),  # the caller's own code, and so its own result
}


def test_a_fault_in_a_call_is_told_as_it_is(client: httpx2.Client, own: Server) -> None:
    head = "import os, subprocess, time\nfrom IPython import get_ipython\n\n"
    for name, body in FUNCTIONS.items():
        register(client, f'{head}def {name}() -> object:\n    """A fault."""\n    {body}\n')
    before = picture(client, own)
    work = {name: partial(suffer_call, client, name) for name in CALLS}
    assert side_by_side(work) == {}
    nothing_left(client, own)
    assert picture(client, own) == before


def suffer_call(client: httpx2.Client, name: str) -> list[str]:
    """On a clean kernel, and in a session that goes on."""
    found: list[str] = []
    session = f"call-{name}-{uuid4().hex[:6]}"
    assert client.post("/sessions", json={"id": session}).status_code == 201
    for where in (None, session):
        query: dict[str, Any] = {"timeout": 1 if name == "hangs" else LONG, **({"session": where} if where else {})}
        answer = call(client, name, **query)
        status, reason, result = CALLS[name]
        as_told = answer["status"] == status and result in (answer["result"], ...)
        as_told = as_told and (answer["reason"] in reason.split() if reason else answer["reason"] is None)
        found += [] if as_told else [f"{where}: {answer['status']} {answer['reason']} {str(answer['result'])[:50]}"]
        found += [said for said in agreeing(answer, where) if isinstance(said, str)]
    after = call(client, "word_count", {"text": "a"}, session=session, timeout=5)
    found += [] if after["result"] == {"a": 1} or name == "forges" else [f"after it: {after}"]
    client.delete(f"/sessions/{session}")
    return found


# -- as it is documented


def test_the_table_of_the_documentation_is_this_one() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text()
    match = re.search(r"<!-- faults -->\n(.*?)<!-- /faults -->", page, re.DOTALL)
    assert match is not None
    assert match[1].splitlines()[2:] == rows(), "python -m tests.faults prints the rows"
