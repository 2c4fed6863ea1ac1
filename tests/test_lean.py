"""Our ipykernel, seen by jupyter_client's own client: what travels is Jupyter's protocol, whoever owns the kernel."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import psutil
import pytest
import zmq
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

from kernels import sandbox
from kernels.environments import Generation
from kernels.home import Home

INSIDE = Path(__file__).parents[1] / "kernels" / "inside"
TIMEOUT = 60
LAUNCHER = """
import importlib.util, os, sys
inside, mode = sys.argv.pop(1), sys.argv.pop(1)
spec = importlib.util.spec_from_file_location(
    "aigbb_inside", inside + "/__init__.py", submodule_search_locations=[inside]
)
sys.modules["aigbb_inside"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
from aigbb_inside import lean, streams
if mode == "impatient":
    streams.PATIENCE = 100
arguments = [*sys.argv[1:], "--HistoryManager.enabled=" + str(mode == "guest"), "--HistoryManager.hist_file=:memory:"]
lean.App.launch_instance(argv=arguments, owned=mode != "guest")
"""

Message = dict[str, Any]


@dataclass
class Talk:
    """A kernel and jupyter_client's client of it."""

    manager: KernelManager
    client: BlockingKernelClient

    def ask(self, request: str, on_message: Callable[[Message], object] | None = None) -> tuple[Message, list[Message]]:
        """The reply's content to a request that was sent, and what was published for it, to idle."""
        published: list[Message] = []
        while not published or published[-1]["content"].get("execution_state") != "idle":
            message = self.client.get_iopub_msg(timeout=TIMEOUT)
            if message["parent_header"].get("msg_id") == request:
                published.append(message)
                if on_message is not None:
                    on_message(message)
        while (reply := self.client.get_shell_msg(timeout=TIMEOUT))["parent_header"].get("msg_id") != request:
            pass
        return cast("Message", reply["content"]), published

    def run(self, code: str, **options: Any) -> tuple[Message, list[Message]]:
        """Execute code."""
        return self.ask(self.client.execute(code, **options))

    def send(self, kind: str, content: Message, **header: Any) -> str:
        """Send a request of any kind on the shell channel, with more in its header. Returns its id."""
        message = self.client.session.msg(kind, content)
        message["header"].update(header)
        self.client.shell_channel.send(message)
        return cast("str", message["header"]["msg_id"])

    def text(self, code: str, name: str = "stdout") -> str:
        """What code prints."""
        return text_of(self.run(code)[1], name)

    def shown(self, code: str) -> Any:
        """The data of code's result, by MIME type."""
        results = [m["content"]["data"] for m in self.run(code)[1] if m["msg_type"] == "execute_result"]
        return results[0] if results else None


def text_of(published: list[Message], name: str = "stdout") -> str:
    """All text of a stream."""
    streams = [m["content"] for m in published if m["msg_type"] == "stream"]
    return "".join(s["text"] for s in streams if s["name"] == name)


def kinds(published: list[Message]) -> list[str]:
    """The types of messages, the status by its state."""
    return [m["content"].get("execution_state", m["msg_type"]) for m in published]


@contextmanager
def started(generation: Generation, home: Home, folder: Path, mode: str) -> Iterator[Talk]:
    """A kernel in a mode of the launcher, with jupyter_client's client ready."""
    folder.mkdir(parents=True)
    (folder / "launcher.py").write_text(LAUNCHER)
    argv = [str(generation.python), str(folder / "launcher.py"), str(INSIDE), mode, "-f", "{connection_file}"]
    (folder / "kernels" / "lean").mkdir(parents=True)
    spec = {"argv": argv, "display_name": "lean", "language": "python"}
    (folder / "kernels" / "lean" / "kernel.json").write_text(json.dumps(spec))
    environment = sandbox.kernel_environment(generation.python, folder, {})
    specs = KernelSpecManager(kernel_dirs=[str(folder / "kernels")], ensure_native_kernel=False)
    with short_folder() as runtime:
        manager = KernelManager(
            kernel_name="lean", kernel_spec_manager=specs, transport="ipc", connection_file=f"{runtime}/k.json"
        )
        manager.start_kernel(env={**environment, "HOME": str(folder)}, cwd=str(folder))
        client = manager.client()
        # A notebook's kernel drops what its reader has no room for: here, the reader has room for all.
        client.context.setsockopt(zmq.RCVHWM, 0)
        try:
            client.start_channels()
            client.wait_for_ready(timeout=TIMEOUT)
            yield Talk(manager, client)
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)
            client.context.destroy(linger=0)


@contextmanager
def short_folder() -> Iterator[str]:
    """A folder whose name is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="aigbb-") as folder:
        yield folder


@pytest.fixture(scope="module", params=["owned", "guest"])
def talk(
    request: pytest.FixtureRequest, generation: Generation, home: Home, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Talk]:
    """A kernel that all tests share, once as a service owns it and once as a notebook has it."""
    with started(generation, home, tmp_path_factory.mktemp("lean") / "k", request.param) as talk:
        yield talk


Start = Callable[[str], Talk]


@pytest.fixture
def start(generation: Generation, home: Home, tmp_path: Path) -> Iterator[Start]:
    """Start a kernel of one's own."""
    with ExitStack() as stack:
        yield lambda mode: stack.enter_context(started(generation, home, tmp_path / mode.replace(" ", "-"), mode))


# -- requests and what is published for them


def test_messages_of_a_cell_come_in_order_and_belong_to_it(talk: Talk) -> None:
    code = "import sys\nprint('out')\nprint('err', file=sys.stderr)\n1 + 1"
    reply, published = talk.run(code)
    assert reply["status"] == "ok"
    assert kinds(published) == ["busy", "execute_input", "stream", "stream", "execute_result", "idle"]
    assert published[1]["content"]["code"] == code


def test_what_is_printed_around_a_display_keeps_its_place(talk: Talk) -> None:
    _, published = talk.run("print('before')\ndisplay({'a': 1})\nprint('after')\ndisplay('text')")
    assert kinds(published) == ["busy", "execute_input", "stream", "display_data", "stream", "display_data", "idle"]
    assert text_of(published) == "before\nafter\n"


def test_an_exception_is_published_and_replied(talk: Talk) -> None:
    reply, published = talk.run("def broken():\n    1 / 0\nbroken()")
    assert reply["status"] == "error"
    assert reply["ename"] == "ZeroDivisionError"
    assert "broken" in "".join(reply["traceback"])
    assert kinds(published) == ["busy", "execute_input", "error", "idle"]


@pytest.mark.parametrize("code", ["def", "x = (", "  y = 1\n z", "%no_such_magic", "raise SystemExit(3)"])
def test_what_cannot_run_is_replied_and_the_next_cell_runs(talk: Talk, code: str) -> None:
    assert talk.run(code)[0]["status"] == "error"
    assert talk.text("print('next')") == "next\n"


def test_requests_after_an_error_are_aborted_and_later_ones_are_not(talk: Talk) -> None:
    first, second = (talk.client.execute(code) for code in ("import time; time.sleep(0.2); 1 / 0", "print('no')"))
    assert talk.ask(first)[0]["status"] == "error"
    assert talk.ask(second)[0]["status"] == "aborted"
    assert talk.text("print('yes')") == "yes\n"


def test_a_cell_may_await(talk: Talk) -> None:
    code = "import asyncio\nasync def two():\n    await asyncio.sleep(0)\n    print('two')\n    return 2\nawait two()"
    reply, published = talk.run(code)
    assert reply["status"] == "ok"
    assert kinds(published) == ["busy", "execute_input", "stream", "execute_result", "idle"]


def test_an_error_in_an_awaiting_cell_is_replied(talk: Talk) -> None:
    assert talk.run("import asyncio\nawait asyncio.sleep(0)\n1 / 0")[0]["ename"] == "ZeroDivisionError"


@pytest.mark.parametrize(
    "code",
    ["while True: pass", "import time; time.sleep(60)", "import asyncio; await asyncio.sleep(60)"],
)
def test_an_interrupt_ends_a_cell(talk: Talk, code: str) -> None:
    def interrupt(message: Message) -> None:
        if message["msg_type"] == "stream":
            talk.manager.interrupt_kernel()
            talk.client.kernel_info()  # what awaits sees an interrupt when another message comes

    reply, _ = talk.ask(talk.client.execute(f"print('begun', flush=True)\n{code}"), interrupt)
    assert reply["status"] == "error"
    assert reply["ename"] in ("KeyboardInterrupt", "CancelledError")
    assert talk.text("print('next')") == "next\n"


def test_an_interrupt_breaks_no_message(talk: Talk) -> None:
    # The signal comes from a thread, at any moment of the sending of thousands of messages.
    code = """
import itertools, os, signal, threading, time
for n in range(200):
    timer = threading.Timer(0.001 + n * 1e-5, signal.raise_signal, [signal.SIGINT])
    try:
        timer.start()
        for m in itertools.count():
            display(m)
    except KeyboardInterrupt:
        timer.join()
        print(n, flush=True)
"""
    reply, published = talk.ask(talk.client.execute(code))  # a broken message would have the client raise
    assert reply["status"] == "ok"
    assert text_of(published).split() == [str(n) for n in range(200)]
    assert interrupted_in_order(published)


def interrupted_in_order(published: list[Message]) -> bool:
    """Whether the numbers shown begin at 0 again and again, and none is missing."""
    shown = [int(m["content"]["data"]["text/plain"]) for m in published if m["msg_type"] == "display_data"]
    return all(then in (0, now + 1) for now, then in pairwise(shown))


def test_what_another_signal_raises_breaks_one_message_at_most(talk: Talk) -> None:
    code = """
import signal
class Alarm(Exception):
    pass
def ring(*_):
    raise Alarm
old = signal.signal(signal.SIGALRM, ring)
for n in range(300):
    print(n, flush=True)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0005 + n * 1e-6)
        for m in range(30):
            display(n)
    except Alarm:
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
signal.signal(signal.SIGALRM, old)
"""
    request, heard = talk.client.execute(code), list[Message]()
    for _ in range(301):
        with suppress(ValueError, TypeError):  # what a broken message has the client raise
            assert talk.ask(request, heard.append)[0]["status"] == "ok"
            break
    assert text_of(heard).split() == [str(n) for n in range(300)]
    assert talk.text("print('next')") == "next\n"


def test_an_interrupt_is_shown_where_it_came(talk: Talk) -> None:
    request = talk.client.execute("print('begun', flush=True)\nwhile True: pass")
    reply, _ = talk.ask(request, lambda m: talk.manager.interrupt_kernel() if m["msg_type"] == "stream" else None)
    assert reply["ename"] == "KeyboardInterrupt"
    assert not [line for line in reply["traceback"] if "on_interrupt" in line]


def test_input_is_asked_of_the_client(talk: Talk) -> None:
    request = talk.client.execute("print('you are', input('name? '))", allow_stdin=True)
    asked = talk.client.get_stdin_msg(timeout=TIMEOUT)
    assert asked["content"]["prompt"] == "name? "
    talk.client.input("Ada")
    assert text_of(talk.ask(request)[1]) == "you are Ada\n"


def test_input_without_anyone_to_ask_is_an_error(talk: Talk) -> None:
    assert talk.run("input()", allow_stdin=False)[0]["ename"] == "StdinNotImplementedError"


def test_silent_code_publishes_only_its_status(talk: Talk) -> None:
    reply, published = talk.run("6 * 7", silent=True, user_expressions={"six": "2 * 3"})
    assert kinds(published) == ["busy", "idle"]
    assert reply["user_expressions"]["six"]["data"]["text/plain"] == "6"


# -- what else writes


def test_threads_print_into_the_cell_that_started_them(talk: Talk) -> None:
    code = """
from threading import Thread
threads = [Thread(target=print, args=(f'line {n}\\n',), kwargs={'end': ''}) for n in range(20)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""
    assert sorted(talk.text(code).splitlines()) == sorted(f"line {n}" for n in range(20))


def test_a_forked_child_prints_into_the_cell(talk: Talk) -> None:
    code = """
import os, sys
sys.stdout.write('parent ')
if (child := os.fork()) == 0:
    sys.stdout.write('child ')
    os._exit(0)
os.waitpid(child, 0)
import time; time.sleep(0.2)
"""
    assert sorted(talk.text(code).split()) == ["child", "parent"]


def test_a_pool_of_processes_prints_and_returns(talk: Talk) -> None:
    code = """
import multiprocessing, sys
def square(n):
    sys.stdout.write(f'squaring {n}\\n')
    return n * n
with multiprocessing.get_context('fork').Pool(2) as pool:
    print(sum(pool.map(square, range(5))))
import time; time.sleep(0.2)
"""
    lines = talk.text(code).splitlines()
    assert sorted(lines) == sorted(["30", *(f"squaring {n}" for n in range(5))])


@pytest.mark.parametrize("code", ["!echo from a child", "import os; os.system('echo from a child')"])
def test_a_program_prints_into_the_cell(talk: Talk, code: str) -> None:
    assert "from a child" in talk.text(f"{code}\nimport time; time.sleep(0.2)")


def test_a_task_that_is_left_behind_goes_on_printing(talk: Talk) -> None:
    code = """
import asyncio
async def later():
    await asyncio.sleep(0.05)
    print('later')
task = asyncio.create_task(later())
await asyncio.sleep(0)
"""
    request = talk.client.execute(code)
    talk.ask(request)
    message = talk.client.get_iopub_msg(timeout=TIMEOUT)
    assert message["content"]["text"] == "later\n"
    assert message["parent_header"]["msg_id"] == request


# -- results


@pytest.mark.parametrize(
    "value", ["0", "12345678901234567890", "1.5", "1e300", "True", "'text'", "'two\\nlines'", "''"]
)
def test_a_scalar_is_shown_as_its_plain_text(talk: Talk, value: str) -> None:
    assert talk.shown(value) == {"text/plain": repr(eval(value))}


def test_an_int_that_python_does_not_write_is_an_error_as_ever(talk: Talk) -> None:
    assert "error" in kinds(talk.run("10 ** 5000")[1])


@pytest.mark.parametrize(
    ("register", "undo", "value", "shown"),
    [
        ("text_html.for_type(int, hex)", "text_html.pop(int)", "255", {"text/html": "0xff", "text/plain": "255"}),
        ("text_html.for_type(object, hex)", "text_html.pop(object)", "1", {"text/html": "0x1", "text/plain": "1"}),
        (
            "text_html.for_type_by_name('builtins', 'int', hex)",
            "text_html.pop('builtins.int')",
            "16",
            {"text/html": "0x10", "text/plain": "16"},
        ),
        ("text_plain.for_type(int, lambda n, p, _: p.text('n'))", "text_plain.pop(int)", "3", {"text/plain": "n"}),
        ("text_plain.float_precision = '%.1f'", "text_plain.float_precision = ''", "2.55", {"text/plain": "2.5"}),
    ],
)
def test_what_is_registered_for_a_scalar_is_shown(
    talk: Talk, register: str, undo: str, value: str, shown: Message
) -> None:
    find = "f = get_ipython().display_formatter.formatters; text_html, text_plain = f['text/html'], f['text/plain']"
    talk.run(f"{find}; kept = dict(text_plain.type_printers); {register};")
    try:
        assert talk.shown(value) == shown
    finally:
        talk.run(f"{undo}; text_plain.type_printers.update(kept);")


def test_results_are_kept_under_their_names(talk: Talk) -> None:
    reply, _ = talk.run("[1, 2]")
    count = reply["execution_count"]
    assert talk.shown("_ + [3]") == {"text/plain": "[1, 2, 3]"}
    assert talk.shown(f"Out[{count}], In[{count}], _i{count}") == {"text/plain": "([1, 2], '[1, 2]', '[1, 2]')"}


def test_an_open_figure_is_shown_after_its_cell(talk: Talk) -> None:
    code = "%matplotlib inline\nimport matplotlib.pyplot as plt\nplt.plot([1, 2]);"
    figures = [m for m in talk.run(code)[1] if m["msg_type"] == "display_data"]
    assert ["image/png" in m["content"]["data"] for m in figures] == [True]


def test_a_cell_transformer_runs_once_for_a_cell(talk: Talk) -> None:
    talk.run("seen = []\ndef watch(lines): seen.append(lines); return lines\nwatch.has_side_effects = True")
    talk.run("get_ipython().input_transformers_cleanup.append(watch)")
    try:
        assert talk.shown("len(seen)") == {"text/plain": "1"}
    finally:
        talk.run("get_ipython().input_transformers_cleanup.remove(watch)")


# -- the other requests


def test_other_requests_are_answered(talk: Talk) -> None:
    talk.run("number_of_things = 3")
    assert "number_of_things" in talk.ask(talk.client.complete("number_of", 9))[0]["matches"]
    assert talk.ask(talk.client.inspect("print", 3))[0]["found"] is True
    assert talk.ask(talk.client.is_complete("for x in y:"))[0]["status"] == "incomplete"
    assert talk.ask(talk.client.history(hist_access_type="tail", n=1))[0]["status"] == "ok"
    assert talk.ask(talk.client.kernel_info())[0]["implementation"] == "ipython"


def test_comms_open_and_speak(talk: Talk) -> None:
    talk.run(
        """
def opened(comm, message):
    comm.on_msg(lambda m: comm.send({'twice': 2 * m['content']['data']['n']}))
get_ipython().kernel.comm_manager.register_target('doubling', opened)
"""
    )
    opened = {"comm_id": "c1", "target_name": "doubling", "data": {}}
    assert kinds(published_for(talk, talk.send("comm_open", opened))) == ["busy", "idle"]
    published = published_for(talk, talk.send("comm_msg", {"comm_id": "c1", "data": {"n": 21}}))
    assert [m["content"]["data"] for m in published if m["msg_type"] == "comm_msg"] == [{"twice": 42}]
    published_for(talk, talk.send("comm_close", {"comm_id": "c1", "data": {}}))
    assert talk.ask(talk.client.comm_info())[0]["comms"] == {}


def published_for(talk: Talk, request: str) -> list[Message]:
    """What is published for a request that has no reply."""
    published: list[Message] = []
    while not published or published[-1]["content"].get("execution_state") != "idle":
        message = talk.client.get_iopub_msg(timeout=TIMEOUT)
        if message["parent_header"].get("msg_id") == request:
            published.append(message)
    return published


def test_a_request_with_a_wrong_signature_is_not_answered(talk: Talk) -> None:
    key, talk.client.session.key = talk.client.session.key, b"another"
    talk.client.execute("print('forged')")
    talk.client.session.key = key
    assert talk.text("print('signed')") == "signed\n"


def test_an_owned_kernel_has_no_subshells_and_takes_their_requests_itself(start: Start) -> None:
    talk = start("owned")
    features = talk.ask(talk.client.kernel_info())[0]["supported_features"]
    assert "kernel subshells" not in features
    content = {"code": "print('here')", "silent": False, "allow_stdin": False}
    assert text_of(talk.ask(talk.send("execute_request", content, subshell_id="none"))[1]) == "here\n"


def test_a_notebook_has_subshells(start: Start) -> None:
    talk = start("guest")
    assert "kernel subshells" in talk.ask(talk.client.kernel_info())[0]["supported_features"]
    talk.client.control_channel.send(talk.client.session.msg("create_subshell_request", {}))
    subshell = talk.client.get_control_msg(timeout=TIMEOUT)["content"]["subshell_id"]
    content = {"code": "print('beside')", "silent": False, "allow_stdin": False}
    assert text_of(talk.ask(talk.send("execute_request", content, subshell_id=subshell))[1]) == "beside\n"


def test_a_kernel_shuts_down_when_asked(start: Start) -> None:
    talk = start("owned")
    talk.client.shutdown()
    assert talk.manager.provisioner is not None
    process = psutil.Process(cast("Any", talk.manager.provisioner).pid)
    psutil.wait_procs([process], timeout=TIMEOUT)
    assert not talk.manager.is_alive()


# -- much output


def test_many_lines_arrive_whole(talk: Talk) -> None:
    assert talk.text("for n in range(50_000): print(n)") == "".join(f"{n}\n" for n in range(50_000))


def test_one_large_print_arrives_whole_in_messages_that_can_be_read(talk: Talk) -> None:
    _, published = talk.run("print('x' * 5_000_000)")
    sizes = [len(m["content"]["text"]) for m in published if m["msg_type"] == "stream"]
    assert sum(sizes) == 5_000_001
    assert max(sizes) <= 1 << 18


def test_the_first_line_is_sent_while_the_cell_still_runs(talk: Talk) -> None:
    def answer(message: Message) -> None:
        if message["msg_type"] == "stream":
            (folder / "seen").touch()

    folder = Path(json.loads(talk.text("import os, json; print(json.dumps(os.getcwd()))")))
    (folder / "seen").unlink(missing_ok=True)
    code = "print('first')\nwhile not os.path.exists('seen'): pass"
    assert talk.ask(talk.client.execute(code), answer)[0]["status"] == "ok"


def test_a_slow_reader_makes_an_owned_kernel_wait_and_loses_nothing(start: Start) -> None:
    talk = start("owned")
    talk.client.iopub_channel.stop()
    process = psutil.Process(cast("Any", talk.manager.provisioner).pid)
    with reader(talk, b"stream", b"kernel") as read:
        before = process.memory_info().rss
        request = talk.client.execute("for n in range(400): print(f'{n:06}' * 40_000, end='')")  # 96 MB
        until_still(process)
        assert process.memory_info().rss - before < 64_000_000
        while talk.client.shell_channel.msg_ready():
            assert talk.client.get_shell_msg()["parent_header"]["msg_id"] != request
        text = []
        while (message := read())["content"].get("execution_state") != "idle":
            if message["msg_type"] == "stream" and message["parent_header"]["msg_id"] == request:
                text.append(message["content"]["text"])
    assert "".join(text) == "".join(f"{n:06}" * 40_000 for n in range(400))


def test_a_reader_that_has_stopped_does_not_stop_the_kernel(start: Start) -> None:
    talk = start("impatient")
    with reader(talk, b"stream"):
        assert talk.text("for n in range(300): print('x' * 20_000, flush=True)") == ("x" * 20_000 + "\n") * 300


def until_still(process: psutil.Process) -> None:
    """Wait until a process no longer works."""
    last = -1.0
    while (now := sum(process.cpu_times()[:2])) != last:
        last = now
        time.sleep(0.3)


@contextmanager
def reader(talk: Talk, *topics: bytes) -> Iterator[Callable[[], Message]]:
    """Another subscriber, which takes one message at a time. Of topics that others have, a kernel tells nobody."""
    socket, session = talk.client.context.socket(zmq.SUB), talk.client.session.clone()
    socket.rcvhwm, socket.linger = 1, 0
    for topic in topics:
        socket.subscribe(topic)
    socket.connect(f"ipc://{talk.manager.ip}-{talk.manager.iopub_port}")

    def read() -> Message:
        assert socket.poll(TIMEOUT * 1000)
        return cast("Message", session.recv(socket, 0)[1])

    try:
        for _ in topics:
            assert read()["msg_type"] == "iopub_welcome"
        yield read
    finally:
        socket.close()
