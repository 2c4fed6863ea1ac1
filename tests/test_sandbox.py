"""Child processes: what they see, how long they may run, how they end."""

from __future__ import annotations

import asyncio
import os
import select
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kernels import sandbox
from tests.conftest import ROOT

pytestmark = pytest.mark.anyio


async def python(code: str, *, timeout: float = 30.0, **more: object) -> sandbox.Finished:
    """Run code in a child."""
    return await sandbox.run([sys.executable, "-I", "-c", code], env={}, timeout=timeout, **more)  # type: ignore[arg-type]


async def test_a_child_gets_its_stdin_and_answers_on_both_streams() -> None:
    finished = await python(
        "import sys; print(sys.stdin.read()[::-1]); print('\\xe9', file=sys.stderr); sys.exit(3)", stdin=b"abc"
    )
    assert (finished.returncode, finished.stdout, finished.timed_out) == (3, b"cba\n", False)
    assert finished.stderr.strip()


async def test_a_child_sees_the_environment_that_it_is_given_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIGBB_TOKEN", "hush")
    code = "import json, os; print(json.dumps([dict(os.environ), os.getcwd()]))"
    env = {"GIVEN": "x", "LC_CTYPE": "C.UTF-8"}
    finished = await sandbox.run([sys.executable, "-I", "-c", code], env=env, timeout=30, cwd=tmp_path)
    assert finished.stdout.decode().strip() == f'[{{"GIVEN": "x", "LC_CTYPE": "C.UTF-8"}}, "{tmp_path}"]'


READ_BY_ANOTHER = """
import ctypes, os, subprocess, sys
sys.path.insert(0, sys.argv[1])
from kernels.sandbox import hide_memory
if os.geteuid() == 0:  # who may read all: be somebody else, and as readable as anybody
    os.setgid(65534)
    os.setuid(65534)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
for hide in (lambda: None, hide_memory):
    hide()
    read = subprocess.run(["/bin/cat", f"/proc/{os.getpid()}/environ"], env={}, capture_output=True)
    print(b"CANARY" in read.stdout)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has it")
def test_a_process_that_hides_is_not_read_by_others_of_its_user() -> None:
    argv = [sys.executable, "-I", "-c", READ_BY_ANOTHER, str(ROOT)]
    ran = subprocess.run(argv, env={"CANARY": "x"}, capture_output=True, text=True)
    assert ran.stdout.split() == ["True", "False"], ran.stderr


async def test_lines_of_stderr_are_heard_as_they_come() -> None:
    heard: list[str] = []
    finished = await python("import sys; sys.stderr.write('one\\n  two  \\n'); print('out')", on_line=heard.append)
    assert heard == ["one", "two"]
    assert finished.stderr == "one\n  two  \n"


async def test_a_listener_that_fails_is_heard_of() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        await python("import sys; sys.stderr.write('one\\n')", on_line=int)


async def test_more_than_the_limit_is_read_but_not_kept() -> None:
    finished = await python("import sys; sys.stdout.write('x' * 3_000_000); sys.stderr.write('y' * 300)", limit=100)
    assert finished.stdout == b"x" * 100
    assert finished.stderr == "y" * 100
    assert finished.returncode == 0


async def test_all_of_a_large_answer_arrives() -> None:
    finished = await python("import sys; sys.stdout.write('x' * 3_000_000)")
    assert len(finished.stdout) == 3_000_000


async def test_a_child_that_reads_nothing_is_no_harm() -> None:
    finished = await python("print('done')", stdin=b"x" * 3_000_000)
    assert (finished.returncode, finished.stdout) == (0, b"done\n")


async def test_a_child_that_ends_at_once_is_no_harm() -> None:
    runs = (sandbox.run(["/bin/sh", "-c", "exit 3"], env={}, timeout=30, stdin=b"x" * 100) for _ in range(40))
    assert {finished.returncode for finished in await asyncio.gather(*runs)} == {3}


async def test_a_signal_is_a_negative_code() -> None:
    finished = await python("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert finished.returncode == -11
    assert not finished.timed_out


async def test_a_child_that_takes_too_long_is_killed_with_all_that_it_started() -> None:
    finished = await python(
        """if True:
        import os, signal, subprocess, sys, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        print(os.getpid(), child.pid, flush=True)
        time.sleep(60)""",
        timeout=1.5,
    )
    assert finished.timed_out
    assert finished.returncode == -9
    for pid in finished.stdout.split():
        assert is_gone(int(pid))


def is_gone(pid: int, within: float = 20.0) -> bool:
    """Whether a process ends in time; a kill takes its moment."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    ended, _, _ = select.select([descriptor], [], [], within)
    os.close(descriptor)
    return bool(ended)


async def test_a_cancelled_caller_leaves_no_child() -> None:
    started: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    code = "import os, sys, time; print(os.getpid(), file=sys.stderr, flush=True); time.sleep(60)"
    task = asyncio.create_task(python(code, on_line=lambda line: started.set_result(int(line))))
    pid = await started
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert is_gone(pid)


LEAVES_ONE_BEHIND = """if True:
    import subprocess, sys
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session={apart})
    print(child.pid)"""


async def test_what_a_child_leaves_behind_ends_with_it() -> None:
    """It holds the pipes open: neither is it waited for, nor is the child said to have been too slow."""
    finished = await python(LEAVES_ONE_BEHIND.format(apart=False))
    assert not finished.timed_out
    assert finished.returncode == 0
    assert is_gone(int(finished.stdout))


@pytest.fixture
async def doomed() -> AsyncIterator[list[int]]:
    """Processes to be ended after the test."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        os.kill(pid, 9)


async def test_what_left_the_group_is_not_waited_for(doomed: list[int]) -> None:
    finished = await python(LEAVES_ONE_BEHIND.format(apart=True))
    doomed.append(int(finished.stdout))
    assert not finished.timed_out
    assert not is_gone(doomed[0], within=0)


async def test_a_program_that_is_not_there_is_an_os_error() -> None:
    with pytest.raises(FileNotFoundError):
        await sandbox.run(["/nowhere/program"], env={}, timeout=1)


async def test_a_kernel_sees_only_what_is_meant_for_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AIGBB_TOKEN", "hush")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    python_path = tmp_path / "venv" / "bin" / "python"
    passed = {"TZ": "UTC", "HOME": "/root", "LANG": "de_DE.UTF-8"}
    env = sandbox.kernel_environment(python_path, tmp_path / "work", passed)
    assert env == {
        "PATH": f"{tmp_path}/venv/bin:{os.defpath}",
        "LANG": "de_DE.UTF-8",
        "TZ": "UTC",
        "HOME": f"{tmp_path}/work",
        "IPYTHONDIR": f"{tmp_path}/work/.ipython",
        "MPLCONFIGDIR": f"{tmp_path}/work/.config/matplotlib",
        "VIRTUAL_ENV": f"{tmp_path}/venv",
    }


async def test_killing_a_group_that_is_gone_is_nothing() -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "", start_new_session=True)
    await process.wait()
    sandbox.kill_group(process.pid)
