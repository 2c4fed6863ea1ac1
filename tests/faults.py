"""What code can do to its kernel, and what comes of it: the table of docs/reliability.md.

`python -m tests.faults` prints its rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# Of a session in which it happened: variables are there; or lost, and it was said; or every execution is an error that
# says what is wrong, until the session is restarted.
After = Literal["kept", "lost", "broken"]

# In the command line, or the environment, of whatever a fault starts.
MARK = "aigbb-fault-7f3a"
# Seconds for what does not end by itself.
SOON = 1.0


@dataclass(frozen=True)
class Fault:
    """Code, and how it ends: one of these statuses and reasons, with an exception of one of these names.

    after: what becomes of a session, one of these. lasts: it does not end by itself.
    """

    name: str
    code: str
    status: str = "ok"
    reason: str = ""
    ename: str = ""
    after: str = "kept"
    lasts: bool = False

    @property
    def statuses(self) -> list[str]:
        """The first is the usual one."""
        return self.status.split()

    @property
    def row(self) -> str:
        """Its line in the documentation."""
        how = [f"`{word}`" for word in (*self.reason.split()[:1], *self.ename.split()[:1]) if self.statuses[0] != "ok"]
        answer = ": ".join([f"`{self.statuses[0]}`", *how])
        return f"| {self.name} | {answer} | {self.after.split()[0]} |"


STOPPED = "interrupted killed"  # killed where the machine is too busy for an interrupt to come through in time
OR_LOST = "kept lost"

ENDS = [
    Fault("`os._exit(3)`", "import os; os._exit(3)", "died", "exit", after="lost"),
    Fault("`sys.exit(3)`", "import sys; sys.exit(3)", "error", ename="SystemExit"),
    Fault("`exit()`", "exit()", "ok", after="lost"),
    Fault("abort", "import os; os.abort()", "died", "signal", after="lost"),
    Fault("segmentation fault", "import ctypes; ctypes.string_at(0)", "died", "signal", after="lost"),
    Fault("SIGKILL to itself", "import os; os.kill(os.getpid(), 9)", "died", "signal", after="lost"),
    Fault("SIGKILL to its group", "import os; os.killpg(0, 9)", "died", "signal", after="lost"),
    Fault(
        "SIGSTOP to itself",
        "import os; os.kill(os.getpid(), 19)",
        "timeout",
        "killed not_started",
        after="lost",
        lasts=True,
    ),
    Fault("all descriptors closed", "import os; os.closerange(0, 4096)", "died", "signal exit", after="lost"),
    # Its process ends at once, with or without having answered.
    Fault(
        "its event loop stopped", "import asyncio; asyncio.get_running_loop().stop()", "ok died", "exit", after="lost"
    ),
    Fault(
        "more memory than a limit that it has",
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))\nx = bytearray(64 << 30)",
        "error",
        ename="MemoryError",
    ),
    Fault("`raise SystemExit`", "raise SystemExit('bye')", "error", ename="SystemExit"),
    Fault("`raise KeyboardInterrupt`", "raise KeyboardInterrupt", "error", ename="KeyboardInterrupt"),
    Fault(
        "an exception that is no `Exception`",
        "class Base(BaseException): pass\nraise Base('base')",
        "error",
        ename="Base",
    ),
    Fault("`raise CancelledError`", "import asyncio\nraise asyncio.CancelledError", "error", ename="CancelledError"),
]

HANGS = [
    Fault("endless loop", "while True: pass", "timeout", STOPPED, after=OR_LOST, lasts=True),
    Fault("long sleep", "import time; time.sleep(600)", "timeout", STOPPED, after=OR_LOST, lasts=True),
    Fault(
        "endless loop in C",
        "import itertools; sum(itertools.repeat(1, 10**12))",
        "timeout",
        "killed",
        after="lost",
        lasts=True,
    ),
    Fault(
        "SIGINT ignored",
        "import signal, time\nsignal.signal(2, signal.SIG_IGN)\nwhile True: time.sleep(1)",
        "timeout",
        "killed",
        after="lost",
        lasts=True,
    ),
    Fault(
        "a handler of SIGINT that does nothing",
        "import signal, time\nsignal.signal(2, lambda *_: None)\nwhile True: time.sleep(1)",
        "timeout",
        "killed",
        after="lost",
        lasts=True,
    ),
    Fault(
        "`except KeyboardInterrupt` in a loop",
        "import time\nwhile True:\n    try: time.sleep(600)\n    except KeyboardInterrupt: pass",
        "timeout",
        "killed",
        after="lost",
        lasts=True,
    ),
    Fault(
        "`except BaseException` in a loop",
        "import time\nwhile True:\n    try: time.sleep(600)\n    except BaseException: pass",
        "timeout",
        "killed",
        after="lost",
        lasts=True,
    ),
    Fault(
        "await for ever",
        "import asyncio; await asyncio.Event().wait()",
        "timeout",
        STOPPED,
        after=OR_LOST,
        lasts=True,
    ),
    Fault(
        "a lock that is never released",
        "import threading\nlock = threading.Lock()\nlock.acquire(); lock.acquire()",
        "timeout",
        STOPPED,
        after=OR_LOST,
        lasts=True,
    ),
    Fault(
        "a `__repr__` that hangs",
        "import time\nclass R:\n    def __repr__(self): time.sleep(600)\nR()",
        "timeout",
        STOPPED,
        after=OR_LOST,
        lasts=True,
    ),
    Fault("`input()`", "input('name? ')", "error", ename="StdinNotImplementedError"),
    Fault("`sys.stdin.read()`", "import sys; assert sys.stdin.read() == ''"),
]

OUTPUT = [
    Fault("endless output", "while True: print('x' * 10_000)", "output_limit", STOPPED, after=OR_LOST),
    Fault(
        "endless output of a child",
        "import subprocess; subprocess.run(['yes'])",
        "output_limit",
        STOPPED,
        after=OR_LOST,
    ),
    Fault(
        "endless output, interrupts ignored",
        "import signal\nsignal.signal(2, signal.SIG_IGN)\nwhile True: print('x' * 10_000)",
        "output_limit",
        "killed",
        after="lost",
    ),
    Fault("50 MB printed", "print('x' * 50_000_000)", "output_limit ok", STOPPED, after=OR_LOST),
    Fault("a `repr` of 100 MB", "'x' * 100_000_000", "ok output_limit", STOPPED, after=OR_LOST),
    Fault("a `__repr__` that raises", "class R:\n    def __repr__(self): 1/0\nR()", "error", ename="ZeroDivisionError"),
    Fault(
        "an exception whose `__str__` raises",
        "class E(Exception):\n    def __str__(self): 1/0\nraise E",
        "error",
        ename="ZeroDivisionError E",
    ),
    Fault(
        "an exception whose `__repr__` raises",
        "class E(Exception):\n    def __repr__(self): 1/0\nraise E('e')",
        "error",
        ename="E ZeroDivisionError",
    ),
    Fault("a list nested 100,000 deep", "x = []\nfor _ in range(100_000): x = [x]\nx", "error", ename="RecursionError"),
    Fault("lone surrogates and NUL printed", "print('a\\ud800b\\0c')"),
    Fault("bytes that are no UTF-8, to descriptor 1", "import os; os.write(1, b'\\xff\\xfe\\x00')"),
]

STREAMS = [
    Fault("`sys.stdout.close()`", "import sys; sys.stdout.close()", after="kept"),
    Fault("`sys.stdout = None`", "import sys; sys.stdout = None", after="broken"),
    Fault("`sys.stdout = StringIO()`", "import sys, io; sys.stdout = io.StringIO()"),
    Fault("`os.close(1)`", "import os; os.close(1)"),
    Fault("`builtins.print = None`", "import builtins; builtins.print = None"),
    Fault(  # the kernel's loop ends of it, and then its process, or that hangs
        "`builtins.len` replaced",
        "import builtins; builtins.len = lambda x: 7",
        "died ok timeout",
        "exit killed",
        after="lost",
        lasts=True,
    ),
    Fault("`del builtins.__import__`", "import builtins; del builtins.__import__", after="lost"),
    Fault("`builtins.open = None`", "import builtins; builtins.open = None"),
    Fault(  # no interpreter is made for this: it exits, fails or hangs
        "all builtins deleted",
        "import builtins; vars(builtins).clear()",
        "died timeout",
        "exit signal killed",
        after="lost",
        lasts=True,
    ),
    Fault("`sys.modules` cleared", "import sys; sys.modules.clear()", after="lost"),
    Fault("the shell's `run_cell` replaced", "get_ipython().run_cell_async = None", after="lost"),
    Fault(
        "a trace function that raises",
        "import sys\ndef trace(*_): 1/0\nsys.settrace(trace)",
        "error",
        ename="ZeroDivisionError",
    ),
    Fault(
        "a timer that raises",
        "import signal\ndef tick(*_): 1/0\nsignal.signal(14, tick)\nsignal.setitimer(0, .3, .3)",
        "ok",
        after="lost",
    ),
    Fault(
        "a callback of the collector that raises",
        "import gc\ndef call(*_): 1/0\ngc.callbacks.append(call)\ngc.collect()",
    ),
    Fault("`atexit` that hangs", "import atexit, time; atexit.register(time.sleep, 600)"),
    Fault("SIGTERM ignored", "import signal; signal.signal(15, signal.SIG_IGN)"),
    Fault("environment cleared", "import os; os.environ.clear()"),
]

# What user code needs to speak for the kernel: it has the key.
_FORGE = """
import time
kernel = get_ipython().kernel
parent = kernel.get_parent()
def forge(kind, **content):
    kernel.session.send(kernel.iopub_socket, kind, content, parent=parent)
def reply(**content):
    ident = kernel._parent_ident["shell"]
    kernel.session.send(kernel.shell_stream, "execute_reply", content, parent=parent, ident=ident)
"""

FORGED = [
    Fault("a forged result", _FORGE + "forge('execute_result', data={'text/plain': '13'}, metadata={})\n'real'"),
    Fault("a forged `idle`", _FORGE + "forge('status', execution_state='idle')\ntime.sleep(0.3)\n'real'"),
    Fault(
        "a forged `idle`, and on it goes",
        _FORGE + "forge('status', execution_state='idle')\ntime.sleep(600)",
        "died",
        "poisoned",
        after="lost",
    ),
    Fault(
        "a forged reply, and on it goes",
        _FORGE + "reply(status='ok')\ntime.sleep(600)",
        "died",
        "poisoned",
        after="lost",
    ),
    Fault(
        "a forged end, and on it goes",
        _FORGE + "reply(status='ok')\nforge('status', execution_state='idle')\ntime.sleep(600)",
        "ok",
        after=OR_LOST,
    ),
    Fault("messages that make no sense", _FORGE + "forge('stream', text=[1], name={})\nforge('display_data', data=3)"),
    Fault(
        "a client of its own",
        "from jupyter_client import BlockingKernelClient\n"
        "client = BlockingKernelClient(connection_file=get_ipython().kernel.parent.abs_connection_file)\n"
        "client.load_connection_file()\nclient.start_channels()\nclient.execute('print(13)');",
        "error",
        ename="FileNotFoundError",  # the file with its key is gone once the service is connected
    ),
]

_CHILD = f"['sh', '-c', ': {MARK}; sleep 600; :']"
_QUIET = "stdin=-3, stdout=-3, stderr=-3"

LEFT = [
    Fault("a thread", "import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()"),
    Fault("a child process", f"import subprocess; subprocess.Popen({_CHILD})"),
    Fault("a child in a session of its own", f"import subprocess; subprocess.Popen({_CHILD}, start_new_session=True)"),
    Fault(
        "a daemon without environment",
        "import os, sys\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        f"        os.execve('/bin/sh', {_CHILD}, {{}})\n    os._exit(0)\nos.wait()",
    ),
    Fault(
        "a child that dies with it, and leaves one",
        f"import os, subprocess; subprocess.Popen({_CHILD}, start_new_session=True); os._exit(0)",
        "died",
        "exit",
        after="lost",
    ),
    Fault("`os.fork()` in a cell", "import os, time\nif os.fork() == 0:\n    time.sleep(600)"),
    Fault(
        "a `multiprocessing` pool",
        "import multiprocessing as m, time\np = m.get_context('fork').Pool(3)\n"
        "p.apply_async(time.sleep, (600,))\nlen(p._pool)",
    ),
    Fault(
        "a fork bomb, bounded",
        "import os, time\ntop = os.getpid()\nfor _ in range(4):\n    if os.fork() == 0: os.setsid()\n"
        "if os.getpid() != top: time.sleep(600)",
    ),
    Fault("an `asyncio` task", "import asyncio\ntask = asyncio.create_task(asyncio.sleep(600))"),
    Fault(
        "a callback that blocks the loop",
        "import asyncio, time\nasyncio.get_running_loop().call_later(0.2, time.sleep, 600)",
        after="lost",
    ),
    Fault(
        "a task that blocks the loop",
        "import asyncio\nasync def spin():\n    await asyncio.sleep(0.2)\n    while True: pass\n"
        "task = asyncio.create_task(spin())",
        after="lost",
    ),
]

FILES = [
    Fault("a full disk", "with open('/dev/full', 'w') as file: file.write('x')", "error", ename="OSError"),
    Fault(
        "no file may grow any more",
        "import resource, tempfile\nresource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "with tempfile.TemporaryFile() as file: file.write(b'x' * 100_000)",
        "error",
        ename="OSError",
    ),
    Fault(
        "no descriptor left",
        "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
        "opened = [open('/dev/null') for _ in range(100)]",
        "error",
        ename="OSError",
    ),
    Fault(
        "its working folder deleted",
        "import os, shutil; shutil.rmtree(os.getcwd())",
        "error ok",  # of a kernel that is not confined, it is no mount
        ename="OSError",
    ),
    Fault("`HOME`, folder and umask changed", "import os; os.environ['HOME'] = '/'; os.chdir('/'); os.umask(0o777)"),
    Fault(
        "files of a package deleted",
        "import dateutil, shutil; shutil.rmtree(dateutil.__path__[0])",
        "ok error",
        ename="OSError PermissionError FileNotFoundError",
    ),
    Fault(
        "2,000 folders inside each other",
        "import os\nfor _ in range(2000):\n    os.mkdir('d'); os.chdir('d')",
        after="kept",
    ),
    Fault("a folder that may not be read", "import os\nos.makedirs('a/b'); os.chmod('a/b', 0); os.chmod('a', 0)"),
]

SOURCE = [
    Fault("5,000 parentheses", "(" * 5000 + ")" * 5000, "error", ename="SyntaxError MemoryError RecursionError"),
    Fault(
        "an expression 100,000 deep",
        "-" * 100_000 + "1",
        "error died",
        ename="MemoryError RecursionError SyntaxError",
        after="kept lost",
    ),
    Fault("NUL in the source", "1\0", "error", ename="SyntaxError ValueError"),
    Fault("endless recursion", "def f(): f()\nf()", "error", ename="RecursionError"),
    Fault(
        "endless recursion with a limit of 10**8",
        "import resource, sys\nresource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))\n"
        "sys.setrecursionlimit(10**8)\ndef f(): f()\nf()",
        "timeout error died",
        "killed interrupted signal",
        ename="MemoryError RecursionError",
        after="lost kept",
        lasts=True,
    ),
    Fault(
        "a generator that will not close",
        "def g():\n    while True:\n        try: yield\n        except GeneratorExit: pass\nx = g(); next(x); del x",
    ),
]

TABLE: dict[str, list[Fault]] = {
    "Ends": ENDS,
    "Does not end": HANGS,
    "Writes": OUTPUT,
    "Breaks what runs it": STREAMS,
    "Speaks for the kernel": FORGED,
    "Leaves something running": LEFT,
    "Files": FILES,
    "Source": SOURCE,
}


def rows() -> list[str]:
    """The table of the documentation."""
    found = []
    for group, faults in TABLE.items():
        found += [f"| **{group}** | | |", *(fault.row for fault in faults)]
    return found


if __name__ == "__main__":
    print("\n".join(rows()))
