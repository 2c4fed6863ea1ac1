"""One kernel: what an execution answers, how it ends, and what hostile code can do to it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
import zmq.asyncio

from kernels.environments import Generation
from kernels.errors import KernelStartFailed
from kernels.kernel import Kernel, Launch
from kernels.outputs import Display, Execution, Result, Stream, fold
from kernels.provisioner import SOCKET
from kernels.tasks import Task
from kernels.workplace import LAST_BYTES
from tests.conftest import ROOT

pytestmark = pytest.mark.anyio


async def run(kernel: Kernel, code: str, *, timeout: float = 60.0, max_output: int = 1 << 20) -> Execution:
    """Execute and fold."""
    return await fold(kernel.execute(Task.code(code), timeout=timeout, max_output=max_output))


async def answers(kernel: Kernel) -> bool:
    """Whether it still does what it should."""
    return (await run(kernel, "print('here')\n6 * 7")).outputs == (Stream("stdout", "here\n"), Result(FORTY_TWO, {}))


FORTY_TWO = {"text/plain": "42"}


async def process_end(pid: int) -> None:
    """Wait until a process has ended; fail when it goes on."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        with anyio.fail_after(20):
            await anyio.wait_readable(descriptor)
    finally:
        os.close(descriptor)


# -- what comes back


async def test_output_and_result_come_back(kernel: Kernel) -> None:
    execution = await run(kernel, "print('hello')\n6 * 7")
    assert execution.text("stdout") == "hello\n"
    assert execution.result == "42"
    assert execution.done.status == "ok"
    assert execution.done.execution_count == 1
    assert not execution.done.truncated and not execution.done.kernel_lost


async def test_outputs_keep_their_order(kernel: Kernel) -> None:
    code = """
import sys
print("one", flush=True)
print("two", file=sys.stderr, flush=True)
display({"text/plain": "three"}, raw=True)
print("four")
5"""
    assert (await run(kernel, code)).outputs == (
        Stream("stdout", "one\n"),
        Stream("stderr", "two\n"),
        Display({"text/plain": "three"}, {}),
        Stream("stdout", "four\n"),
        Result({"text/plain": "5"}, {}),
    )


async def test_a_figure_is_a_picture_and_a_frame_is_a_table(kernel: Kernel) -> None:
    code = "import matplotlib.pyplot as p, pandas\np.plot([1, 2])\np.show()\npandas.DataFrame({'a': [1]})"
    shown = [item for item in (await run(kernel, code)).outputs if not isinstance(item, Stream)]
    assert isinstance(shown[0], Display) and isinstance(shown[1], Result)
    assert shown[0].data["image/png"].startswith("iVBOR")
    assert "<table" in shown[1].data["text/html"]


async def test_a_display_is_redrawn_in_place_and_cleared(kernel: Kernel) -> None:
    code = """
from IPython.display import clear_output
print("gone")
clear_output()
shown = display({"text/plain": "first"}, raw=True, display_id=True)
print("between")
shown.update({"text/plain": "second"}, raw=True)"""
    first, between = (await run(kernel, code)).outputs
    assert isinstance(first, Display) and first.data == {"text/plain": "second"}
    assert between == Stream("stdout", "between\n")


async def test_an_exception_shows_the_callers_frames_without_colours(kernel: Kernel) -> None:
    execution = await run(kernel, "import json\ndef load():\n    return json.loads('{')\nprint('x')\nload()")
    error = execution.error
    assert execution.done.status == "error" and execution.done.detail is None
    assert execution.text("stdout") == "x\n"
    assert error is not None and error.ename == "JSONDecodeError" and error.evalue.startswith("Expecting")
    text = "\n".join(error.traceback)
    assert "----> 5 load()" in text and "in load()" in text
    assert "decoder.py" not in text and "\x1b" not in text
    assert error.frames_hidden == 3


FAULTS = {
    "input refused": ("input('name? ')", "StdinNotImplementedError"),
    "sys.exit": ("import sys\nsys.exit(3)", "SystemExit"),
    "syntax": ("def f(:", "SyntaxError"),
    "NUL in the source": ("1\0", "SyntaxError"),
    "repr raises": ("class A:\n    def __repr__(self): raise KeyError('inner')\nA()", "KeyError"),
    "str of the exception raises": (
        "class E(Exception):\n    def __str__(self): 1/0\nraise E",
        "ZeroDivisionError",
    ),
    "no subclass of Exception": ("class B(BaseException): pass\nraise B('base')", "B"),
    "asyncio.run": ("import asyncio\nasyncio.run(asyncio.sleep(0))", "RuntimeError"),
    "deep recursion": ("import sys\nsys.setrecursionlimit(200)\ndef f(): f()\nf()", "RecursionError"),
}


async def test_code_that_fails_is_an_error_and_the_kernel_goes_on(kernel: Kernel) -> None:
    for name, (code, expected) in FAULTS.items():
        execution = await run(kernel, code)
        assert execution.done.status == "error", name
        assert execution.error is not None, name
        assert execution.error.ename == expected, name
        assert not execution.done.kernel_lost, name
    assert await answers(kernel)


async def test_no_output_of_many_prints_is_lost(kernel: Kernel) -> None:
    expected = "".join(f"{number}\n" for number in range(300))
    for _ in range(30):
        assert (await run(kernel, "for number in range(300): print(number)")).text("stdout") == expected


# -- deadlines and interrupts


@pytest.mark.usefixtures("patient")
async def test_a_sleep_over_the_deadline_is_interrupted_and_variables_stay(kernel: Kernel) -> None:
    execution = await run(kernel, "import time\nkept = 7\nprint('began')\ntime.sleep(600)", timeout=1.0)
    assert execution.done.status == "timeout"
    assert execution.done.detail == "Timed out after 1 s; the code was interrupted."
    assert execution.text("stdout") == "began\n"
    assert not execution.done.kernel_lost
    assert (await run(kernel, "kept")).result == "7"


@pytest.mark.usefixtures("patient")
async def test_an_endless_await_is_interrupted(kernel: Kernel) -> None:
    execution = await run(kernel, "import asyncio\nawait asyncio.Event().wait()", timeout=0.5)
    assert execution.done.detail == "Timed out after 0.5 s; the code was interrupted."
    assert await answers(kernel)


@pytest.mark.parametrize(
    "code",
    [
        "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: time.sleep(1)",
        "import itertools\nsum(itertools.repeat(1, 10**11))",
        "import time\nwhile True:\n    try: time.sleep(600)\n    except KeyboardInterrupt: pass",
    ],
    ids=["SIGINT ignored", "C loop", "KeyboardInterrupt caught"],
)
async def test_code_that_does_not_stop_is_killed(kernel: Kernel, code: str) -> None:
    execution = await run(kernel, code, timeout=0.5)
    assert execution.done.status in ("timeout", "died")
    assert execution.done.kernel_lost
    assert kernel.state == "dead"
    assert "killed" in str(execution.done.detail) or "replaced" in str(execution.done.detail)


async def test_interrupting_cancels_the_execution(kernel: Kernel) -> None:
    code = "kept = 7\nprint('began', flush=True)\nimport time\ntime.sleep(600)"
    stream = kernel.execute(Task.code(code), timeout=60, max_output=9999)
    assert await anext(stream) == Stream("stdout", "began\n")
    assert kernel.state == "busy"
    assert await kernel.interrupt()
    assert (await fold(stream)).done.status == "cancelled"
    assert (await run(kernel, "kept")).result == "7"
    assert not await kernel.interrupt()


async def test_an_interrupt_that_comes_before_the_code_has_begun_is_not_lost(kernel: Kernel) -> None:
    for _ in range(5):
        execution = asyncio.create_task(run(kernel, "import time\ntime.sleep(600)", timeout=20))
        while kernel.state != "busy":
            await asyncio.sleep(0)
        assert await kernel.interrupt()
        assert (await execution).done.status == "cancelled"


async def test_abandoned_code_stops_and_the_kernel_is_free(kernel: Kernel) -> None:
    code = "kept = 7\nprint('began', flush=True)\nwhile True: pass"
    stream = kernel.execute(Task.code(code), timeout=60, max_output=9999)
    await anext(stream)
    await stream.aclose()
    assert kernel.state == "busy"
    assert await kernel.abandon()
    assert (await run(kernel, "kept")).outputs == (Result({"text/plain": "7"}, {}),)


async def test_abandoned_code_that_does_not_stop_is_killed(kernel: Kernel) -> None:
    code = (
        "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nprint('began', flush=True)\ntime.sleep(600)"
    )
    stream = kernel.execute(Task.code(code), timeout=60, max_output=9999)
    await anext(stream)
    await stream.aclose()
    assert not await kernel.abandon()
    assert kernel.state == "dead"


# -- deaths


@pytest.mark.parametrize(
    ("code", "words", "how"),
    [
        ("import os\nos._exit(3)", "exited with code 3", ("exit", 3, None)),
        ("import os\nos.kill(os.getpid(), 9)", "SIGKILL", ("signal", None, "SIGKILL")),
        ("import ctypes\nctypes.string_at(0)", "SIGSEGV", ("signal", None, "SIGSEGV")),
    ],
)
async def test_a_death_is_seen_at_once(kernel: Kernel, code: str, words: str, how: tuple[object, ...]) -> None:
    with anyio.fail_after(20):  # and not at the deadline
        execution = await run(kernel, code, timeout=600)
    assert execution.done.status == "died"
    assert execution.done.kernel_lost
    assert words in str(execution.done.detail)
    assert (execution.done.reason, execution.done.exit_code, execution.done.signal) == how
    assert kernel.state == "dead"
    assert (await run(kernel, "1")).done.status == "died"


async def test_a_kernel_that_lost_its_output_ends_the_next_execution(kernel: Kernel) -> None:
    await run(kernel, "import sys\nsys.stdout = None")
    with anyio.fail_after(20):
        execution = await run(kernel, "1", timeout=600)
    assert execution.done.status == "error"
    assert "'NoneType' object has no attribute 'flush'" in str(execution.outputs)


async def test_a_kernel_that_can_import_nothing_is_killed_when_it_does_not_answer(kernel: Kernel) -> None:
    execution = await run(kernel, "import builtins\ndel builtins.__import__\nprint(1)")
    assert "__import__ not found" in str(execution.outputs)
    execution = await run(kernel, "1", timeout=0.5)
    assert (execution.done.status, execution.done.kernel_lost, kernel.state) == ("timeout", True, "dead")


async def test_a_stopped_kernel_takes_its_children_along(kernel: Kernel) -> None:
    execution = await run(kernel, "import subprocess\nsubprocess.Popen(['sleep', '600']).pid")
    waiting = asyncio.create_task(run(kernel, "import time\ntime.sleep(600)"))
    while kernel.state != "busy":
        await asyncio.sleep(0)
    await kernel.stop()
    await kernel.stop()
    assert (await waiting).done.detail == "The kernel was stopped."
    await process_end(int(execution.result or 0))
    assert not kernel.workdir.exists()


LEFT_RUNNING = """
import subprocess, sys
child = "['sleep', '600'], start_new_session=True, stdout=-3, stderr=-3"
daemon = f"import subprocess; print(subprocess.Popen({child}).pid)"
print(subprocess.run([sys.executable, '-c', daemon], capture_output=True, text=True).stdout)
print(subprocess.Popen(['sleep', '600'], start_new_session=True).pid, flush=True)
"""


@pytest.mark.parametrize("end", ["import os; os._exit(0)", None], ids=["died", "stopped"])
async def test_what_a_kernel_left_running_ends_with_it_wherever_it_has_gone(kernel: Kernel, end: str | None) -> None:
    started = await run(kernel, LEFT_RUNNING)
    pids = started.text("stdout").split()
    assert len(pids) == 2, started
    if end:
        assert (await run(kernel, end)).done.status == "died"
    else:
        await kernel.stop()
    for pid in pids:
        await process_end(int(pid))


STARTER = """
import asyncio, json, sys, zmq.asyncio
from pathlib import Path
from kernels.kernel import Kernel, Launch
from kernels.outputs import fold
from kernels.tasks import Task

async def main():
    name, number, specs, env, runtime, workdir = json.loads(sys.argv[1])
    launch = Launch(name, number, Path(specs), env, Path(runtime), Path(workdir))
    kernel = await Kernel.start(launch, zmq.asyncio.Context())
    code = "import os; print(os.getpid())"
    print((await fold(kernel.execute(Task.code(code), timeout=60, max_output=999))).text("stdout"), flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_a_kernel_dies_with_the_service(launch: Launch) -> None:
    parts = [launch.name, launch.generation, str(launch.kernelspecs), dict(launch.env), str(launch.runtime)]
    arguments = [sys.executable, "-c", STARTER, json.dumps([*parts, str(launch.workdir)])]
    async with await anyio.open_process(arguments, cwd=ROOT, stderr=subprocess.DEVNULL) as service:
        assert service.stdout is not None
        with anyio.fail_after(60):
            pid = int(await service.stdout.receive())
        service.kill()
    await process_end(pid)


# -- too much of it


async def test_output_over_the_cap_is_cut_in_the_middle_and_says_how_much(kernel: Kernel) -> None:
    execution = await run(kernel, "for n in range(100_000): print(f'{n:07}')", max_output=10_000)
    text = execution.text("stdout")
    assert execution.done.status == "ok" and execution.done.truncated
    assert text.startswith("0000000\n0000001\n") and text.endswith("0099998\n0099999\n")
    cut = next(line for line in text.splitlines() if line.endswith("characters cut ..."))
    assert int(cut.split()[1].replace(",", "")) + len(text) - len(f"\n{cut}\n") == 800_000
    assert 5_000 < len(text) < 10_100


@pytest.mark.usefixtures("patient")
async def test_endless_output_ends_at_its_limit_and_variables_stay(kernel: Kernel) -> None:
    code = "kept = 7\nwhile True: print('x' * 100_000)"
    execution = await run(kernel, code, timeout=600, max_output=10_000)
    assert (execution.done.status, execution.done.reason) == ("output_limit", "interrupted")
    assert execution.done.detail == "Wrote more than 33,554,432 bytes; the code was interrupted."
    assert execution.done.truncated and not execution.done.kernel_lost
    assert (await run(kernel, "kept")).result == "7"


async def test_endless_output_stays_bounded_until_the_deadline(kernel: Kernel) -> None:
    code = "import time\nwhile True: print('x' * 1000, flush=time.sleep(1e-3))"
    execution = await run(kernel, code, timeout=1.5, max_output=10_000)
    assert execution.done.status == "timeout" and execution.done.truncated
    assert len(execution.text("stdout")) < 10_100


async def test_a_flood_leaves_turns_to_everybody_else(kernel: Kernel, tmp_path: Path) -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    mark = tmp_path / "mark"
    code = f"for n in range(1000):\n    display({{}}, raw=True)\n    n == 50 and open({str(mark)!r}, 'w').close()"
    stream = kernel.execute(Task.code(code), timeout=60, max_output=1 << 20)
    await anext(stream)
    while not mark.exists():
        time.sleep(0.01)  # the loop stands still, so that as much as may wait is there when it goes on
    other = asyncio.create_task(others())
    assert len((await fold(stream)).outputs) == 999
    other.cancel()
    assert turns > 100  # one after every few messages


async def test_a_slow_reader_loses_nothing_below_the_cap(kernel: Kernel) -> None:
    stream = kernel.execute(
        Task.code("for n in range(20_000): print(n)\nopen('mark', 'w')"), timeout=60, max_output=1 << 20
    )
    first = await anext(stream)
    with anyio.fail_after(60):
        while not (kernel.workdir / "mark").exists():  # nothing is taken until all is written
            await asyncio.sleep(0.01)
    assert isinstance(first, Stream)
    rest = await fold(stream)
    assert first.text + rest.text("stdout") == "".join(f"{n}\n" for n in range(20_000))
    assert rest.done.status == "ok" and not rest.done.truncated


async def test_a_deadline_counts_and_memory_is_bounded_while_nobody_reads(kernel: Kernel) -> None:
    code = "import time\nwhile True: print('x' * 1000, flush=time.sleep(1e-3))"
    stream = kernel.execute(Task.code(code), timeout=1.0, max_output=10_000)
    await anext(stream)
    run = kernel._run
    assert run is not None
    with anyio.fail_after(30):
        while not run._ended:  # stopped, although nothing is taken
            assert sum(len(item.text) for item in run.items if isinstance(item, Stream)) <= 10_000
            await asyncio.sleep(0.01)
    execution = await fold(stream)
    assert execution.done.status == "timeout" and execution.done.truncated
    assert len(execution.text("stdout")) < 10_100


async def test_a_huge_message_is_left_out_and_said(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernels.channels.MAX_MESSAGE", 50_000)
    shown = await run(kernel, "print('x' * 200_000)\ndisplay({'text/plain': 'x' * 200_000}, raw=True)\n'x' * 200_000")
    stream, display, result = shown.outputs
    assert isinstance(stream, Stream) and "message of 65," in stream.text
    assert isinstance(display, Display) and "display_data" in display.data["text/plain"]
    assert isinstance(result, Result) and "execute_result" in result.data["text/plain"]
    assert shown.done.status == "ok" and shown.done.truncated
    raised = await run(kernel, "raise ValueError('x' * 200_000)")
    assert raised.done.status == "error" and raised.done.truncated
    assert raised.error is not None and "left out" in raised.error.evalue
    assert await answers(kernel)


# -- what is not as it should be


async def test_what_is_not_valid_text_or_json_becomes_valid(kernel: Kernel) -> None:
    code = r"""
import json
get_ipython().kernel.session.pack = lambda content: json.dumps(content, default=str).encode()
data = {"text/plain": "a\ud800", "application/json": {"\udfff": [float("nan"), float("inf"), "\udc00", 1.5]}}
display(data, raw=True)"""
    (shown,) = (await run(kernel, code)).outputs
    valid = {"text/plain": "a\ufffd", "application/json": {"\ufffd": [None, None, "\ufffd", 1.5]}}
    assert shown == Display(valid, {})


async def test_text_that_is_no_unicode_is_heard_as_far_as_it_is(kernel: Kernel) -> None:
    execution = await run(kernel, "print('a\\ud800b\\0c')\nraise ValueError('\\udfff')")
    assert execution.text("stdout") == "a\ufffdb\0c\n"
    assert execution.error is not None and execution.error.evalue == "\ufffd"
    assert execution.done.status == "error" and await answers(kernel)


async def test_of_a_recursion_the_ends_are_shown(kernel: Kernel) -> None:
    execution = await run(kernel, "def down(n): return 1 / n if n == 0 else down(n - 1)\ndown(900)")
    assert execution.error is not None and execution.error.ename == "ZeroDivisionError"
    assert len(execution.error.traceback) + execution.error.frames_hidden < 60
    assert await answers(kernel)


async def test_raw_bytes_and_children_are_heard(kernel: Kernel) -> None:
    code = r"import os, subprocess; os.write(1, b'\xff raw\n'); subprocess.run(['echo', 'child']); os.write(2, b'low')"
    execution = await run(kernel, code)
    assert "\ufffd raw\n" in execution.text("stdout") and "child\n" in execution.text("stdout")
    assert "low" in execution.text("stderr")


FORGE = """
kernel = get_ipython().kernel
def forge(kind, content):
    kernel.session.send(kernel.iopub_socket, kind, content, parent=kernel.get_parent())
"""


async def test_a_forged_idle_does_not_end_the_execution(kernel: Kernel) -> None:
    code = FORGE + "forge('status', {'execution_state': 'idle'})\nimport time\ntime.sleep(0.5)\n6 * 7"
    execution = await run(kernel, code)
    assert execution.done.status == "ok"
    assert execution.result == "42"


async def test_forged_messages_that_make_no_sense_are_passed_over(kernel: Kernel) -> None:
    code = (
        FORGE
        + """
for kind, content in [("stream", b"[]"), ("status", {}), ("error", {"traceback": 3}), ("display_data", {"data": 1})]:
    forge(kind, content)
kernel.iopub_socket.send_multipart([b"only", b"this"])
kernel.iopub_socket.send_multipart([b"<IDS|MSG>", b"", b"{", b"{", b"{", b"{"])
"""
    )
    execution = await run(kernel, code)
    assert execution.done.status == "ok"
    assert await answers(kernel)


async def test_output_of_an_older_execution_is_not_shown(kernel: Kernel) -> None:
    await run(kernel, FORGE + "old = dict(kernel.get_parent())")
    code = "kernel.session.send(kernel.iopub_socket, 'stream', {'name': 'stdout', 'text': 'old'}, parent=old)\n1"
    assert (await run(kernel, code)).outputs == (Result({"text/plain": "1"}, {}),)


# -- starts


@pytest.fixture
async def context() -> AsyncIterator[zmq.asyncio.Context]:
    """Whose end hangs when a socket was left open."""
    context = zmq.asyncio.Context()
    yield context
    context.term()


def nasty(launch: Launch, folder: Path, *argv: str) -> Launch:
    """A launch of a kernel of another kind."""
    spec = folder / "specs" / "nasty"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "nasty", "language": "python"}))
    return replace(launch, name="nasty", kernelspecs=spec.parent)


def left_behind(launch: Launch) -> list[Path]:
    """Files of kernels that are no more."""
    return [*launch.runtime.glob("*/*"), *launch.workdir.glob("*")]


async def test_a_kernel_whose_python_does_not_exist_is_refused(
    launch: Launch, tmp_path: Path, context: zmq.asyncio.Context
) -> None:
    broken = nasty(launch, tmp_path, str(tmp_path / "no" / "python"), "{connection_file}")
    with pytest.raises(KernelStartFailed, match=r"could not be started: .*No such file"):
        await Kernel.start(broken, context)
    assert left_behind(launch) == []


async def test_a_kernelspec_that_does_not_exist_is_refused(launch: Launch, context: zmq.asyncio.Context) -> None:
    with pytest.raises(KernelStartFailed, match=r"could not be started: No such kernel"):
        await Kernel.start(replace(launch, name="nothing"), context)
    assert left_behind(launch) == []


async def test_a_kernel_that_ends_at_its_start_leaves_its_last_words(
    launch: Launch, tmp_path: Path, context: zmq.asyncio.Context
) -> None:
    code = "import sys; sys.stderr.write('no room left'); sys.exit(5)"
    with pytest.raises(KernelStartFailed, match="nasty exited with code 5 before it was ready") as failed:
        await Kernel.start(nasty(launch, tmp_path, sys.executable, "-c", code), context)
    assert failed.value.extra["log"] == "no room left"
    assert left_behind(launch) == []


async def test_what_is_in_the_place_of_a_start_log_is_not_read(
    launch: Launch, tmp_path: Path, context: zmq.asyncio.Context
) -> None:
    (tmp_path / "secret").write_text("canary")
    swaps = (
        f"os.remove('.start.log'); os.symlink({str(tmp_path / 'secret')!r}, '.start.log')",
        "os.remove('.start.log'); os.mkfifo('.start.log')",
        "os.truncate('.start.log', 10**10); os.lseek(2, 0, os.SEEK_END)",
    )
    for number, swap in enumerate(swaps):
        code = f"import os, sys; {swap}; sys.stderr.write('said'); sys.exit(5)"
        (folder := tmp_path / str(number)).mkdir()
        with pytest.raises(KernelStartFailed) as failed:
            await Kernel.start(nasty(launch, folder, sys.executable, "-c", code), context)
        assert failed.value.extra["log"].endswith("said")
        assert len(failed.value.extra["log"]) <= LAST_BYTES
    assert left_behind(launch) == []


async def test_nobody_else_can_connect_to_a_kernel_that_runs(kernel: Kernel) -> None:
    assert list((kernel.launch.runtime / "k").iterdir()) == []
    code = "import os\nfrom ipykernel.kernelapp import IPKernelApp as App\n"
    code += "os.path.exists(App.instance().abs_connection_file)"
    assert (await run(kernel, code)).result == "False"
    running = asyncio.create_task(run(kernel, "while True: pass"))
    while not await kernel.interrupt():
        await asyncio.sleep(0.01)
    assert (await running).done.status == "cancelled"
    assert (await run(kernel, "6 * 7")).result == "42"
    await kernel.stop()
    assert left_behind(kernel.launch) == []


RUN_BY_ANOTHER = "import os, sys\nif os.fork(): os.wait()\nelse: os.execv(sys.argv[1], sys.argv[1:])"


async def test_a_kernel_whose_sockets_are_anothers_is_refused(
    launch: Launch, generation: Generation, tmp_path: Path, context: zmq.asyncio.Context
) -> None:
    if SOCKET in launch.env or sys.platform != "linux":
        return
    strange = nasty(launch, tmp_path, sys.executable, "-c", RUN_BY_ANOTHER, "{connection_file}")
    file = strange.kernelspecs / "nasty" / "kernel.json"
    spec = json.loads((generation.kernelspecs / generation.kernel_name / "kernel.json").read_text())
    file.write_text(json.dumps({**spec, "argv": [sys.executable, "-c", RUN_BY_ANOTHER, *spec["argv"]]}))
    env = {name: value for name, value in launch.env.items() if name != "AIGBB_OWNED"}
    with pytest.raises(KernelStartFailed, match="nasty is not what answers at its sockets"):
        await Kernel.start(replace(strange, env=env), context)
    assert left_behind(launch) == []


async def test_a_kernel_that_closes_its_sockets_is_given_up_at_the_deadline(kernel: Kernel) -> None:
    code = "from ipykernel.kernelapp import IPKernelApp as App\napp = App.instance()\n"
    code += "app.shell_socket.close(0)\nimport os\nos.write(1, b'closed')"
    assert (await run(kernel, code, timeout=2)).done.kernel_lost
    assert (await run(kernel, "1", timeout=1)).done.status == "died"
    assert kernel.state == "dead"


async def test_folders_that_a_kernel_replaced_by_links_are_removed_and_not_what_they_lead_to(
    launch: Launch, tmp_path: Path, context: zmq.asyncio.Context
) -> None:
    precious = tmp_path / "precious"
    precious.mkdir(mode=0o750)
    for file in ("registry.sqlite3", "kernel.json"):
        (precious / file).write_text("canary")
    kernel = await Kernel.start(launch, context)
    sockets = launch.runtime / "k" / kernel.id
    code = f"import os, shutil\nos.chdir('/')\nfor path in ({str(kernel.workdir)!r}, {str(sockets)!r}):\n"
    code += f"    shutil.rmtree(path, ignore_errors=True)\n    os.symlink({str(precious)!r}, path)\n"
    assert (await run(kernel, code)).done.status == "ok"
    assert kernel.workdir.is_symlink()
    await kernel.stop()
    assert left_behind(launch) == []
    assert sorted(path.name for path in precious.iterdir()) == ["kernel.json", "registry.sqlite3"]
    assert precious.stat().st_mode & 0o777 == 0o750


async def test_a_kernel_that_hangs_at_its_start_is_killed(
    launch: Launch, tmp_path: Path, context: zmq.asyncio.Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kernels.kernel.START_TIMEOUT", 1.0)
    pid = tmp_path / "pid"
    code = (
        f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); print('wait', flush=True); time.sleep(600)"
    )
    with pytest.raises(KernelStartFailed, match="nasty was not ready after 1 s") as failed:
        await Kernel.start(nasty(launch, tmp_path, sys.executable, "-c", code), context)
    assert failed.value.extra["log"] == "wait\n"
    await process_end(int(pid.read_text()))
    assert left_behind(launch) == []


async def test_a_start_that_nobody_waits_for_leaves_nothing(launch: Launch, context: zmq.asyncio.Context) -> None:
    start = asyncio.create_task(Kernel.start(launch, context))
    with anyio.fail_after(20):
        while not any(launch.workdir.glob("*")):
            await asyncio.sleep(0.01)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert left_behind(launch) == []


async def test_a_start_that_is_cancelled_at_any_moment_leaves_nothing(
    launch: Launch, context: zmq.asyncio.Context
) -> None:
    for turns in range(0, 60, 2):
        start = asyncio.create_task(Kernel.start(launch, context))
        for _ in range(turns):
            await asyncio.sleep(0.0005 * (turns % 4))
        start.cancel()
        with suppress(asyncio.CancelledError):
            await (await start).stop()  # it was faster
        assert left_behind(launch) == []


LIAR = """
import json, sys, zmq
from jupyter_client.session import Session
where = json.load(open(sys.argv[1]))
session = Session(key=where["key"].encode(), signature_scheme=where["signature_scheme"])
def bind(kind, channel):
    socket = zmq.Context.instance().socket(kind)
    socket.bind(f"ipc://{where['ip']}-{where[channel + '_port']}")
    return socket
shell, iopub = bind(zmq.ROUTER, "shell"), bind(zmq.XPUB, "iopub")
iopub.recv()
session.send(iopub, "iopub_welcome", {}, ident=[b""])
while True:
    identity, request = session.recv(shell, mode=0)
    if request["msg_type"] == "kernel_info_request":
        session.send(shell, "kernel_info_reply", {}, parent=request, ident=identity)
        continue
    session.send(shell, "execute_reply", b"[3]", parent=request, ident=identity)
    session.send(shell, "execute_reply", {"status": "ok", "execution_count": "many"}, parent=request, ident=identity)
    if request["content"]["code"] == "finish":
        session.send(iopub, "status", {"execution_state": "idle"}, parent=request)
"""


async def test_a_kernel_that_answers_nonsense_is_survived(
    launch: Launch, tmp_path: Path, context: zmq.asyncio.Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kernels.kernel.HALF_DONE_GRACE", 0.3)
    script = tmp_path / "liar.py"
    script.write_text(LIAR)
    kernel = await Kernel.start(nasty(launch, tmp_path, sys.executable, str(script), "{connection_file}"), context)
    try:
        finished = await run(kernel, "finish")
        assert (finished.done.status, finished.done.execution_count) == ("ok", None)
        unfinished = await run(kernel, "1", timeout=600)
        assert unfinished.done.status == "died" and unfinished.done.kernel_lost
    finally:
        await kernel.stop()
    assert left_behind(launch) == []


async def test_nothing_of_the_services_environment_is_seen(
    launch: Launch, monkeypatch: pytest.MonkeyPatch, context: zmq.asyncio.Context
) -> None:
    monkeypatch.setenv("CANARY", "sings")
    kernel = await Kernel.start(launch, context)
    try:
        execution = await run(
            kernel, "import os\nfor part in (*os.environ.items(), open('/proc/self/environ').read()): print(part)"
        )
        assert "CANARY" not in execution.text("stdout") and "sings" not in execution.text("stdout")
        assert str(kernel.workdir) in execution.text("stdout")
    finally:
        await kernel.stop()


async def test_a_cell_may_import_a_file_that_it_wrote(kernel: Kernel) -> None:
    execution = await run(kernel, "open('written.py', 'w').write('a = 41')\nimport written\nwritten.a + 1")
    assert execution.result == "42"


async def test_the_time_of_an_execution_is_its_own(kernel: Kernel) -> None:
    execution = await run(kernel, "import time; time.sleep(0.2)")
    assert 0.2 <= execution.done.seconds < 20
