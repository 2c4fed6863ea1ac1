"""A kernel's main program: `python launch.py -f CONNECTION_FILE`, as the kernelspec says.

Needs AIGBB_GENERATION, the folder of its environment. AIGBB_OWNED=1 says that a service owns the kernel:
then it keeps no history file and dies with the service. With `--warm`, it is the parent of all such kernels.
"""

import ctypes
import fcntl
import importlib.util
import os
import select
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
OWNED = "AIGBB_OWNED"


def become_importable() -> None:
    """Make the folder of this file the package `aigbb_inside`, without a path entry that could shadow."""
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != HERE]
    spec = importlib.util.spec_from_file_location(
        "aigbb_inside", HERE / "__init__.py", submodule_search_locations=[str(HERE)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["aigbb_inside"] = module
    spec.loader.exec_module(module)


def hold(generation: Path) -> int:
    """A shared lock for the life of the process: a generation that is held is not deleted."""
    descriptor = os.open(generation, os.O_RDONLY | os.O_CLOEXEC)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def confine_this() -> None:
    """Be bound by the rules in the environment. In a sandbox, our parent is another one than who started that."""
    from aigbb_inside import confine  # type: ignore[import-not-found]

    rules = confine.take(os.environ)
    confine.apply(rules)
    if rules.get("wrapped"):
        os.environ.pop("JPY_PARENT_PID", None)
        os.setsid()


def end_without_service() -> None:
    """A service that was killed while its sandbox came up could not take it along."""
    if (number := os.environ.pop("AIGBB_SERVICE", "")) != "":
        descriptor = int(number)
        if select.select([descriptor], [], [], 0)[0]:
            os._exit(1)
        os.close(descriptor)


def die_with_parent(parent: int) -> None:
    """Ask Linux for SIGKILL when the parent ends; elsewhere ipykernel's parent poller does it."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0)
        if parent and os.getppid() != parent:
            os._exit(1)


def hide_memory() -> None:
    """Let no other process of this user read this one's memory or trace it, unless it may trace all. On Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE


def arguments(*, owned: bool, given: Sequence[str] = ()) -> list[str]:
    """The kernel application's command line."""
    found = [*given, "--IPKernelApp.extra_extensions=aigbb_inside.functions"]
    if owned:
        # No history database, and no pause after each execution, which is there for slow terminals.
        found += ["--HistoryManager.enabled=False", "--Kernel._execute_sleep=0"]
    return found


def main() -> None:
    """Prepare the process, then hand it to ipykernel."""
    generation = Path(os.environ["AIGBB_GENERATION"])
    end_without_service()
    lock = hold(generation)
    become_importable()
    confine_this()
    owned = os.environ.get(OWNED) == "1"  # the extension removes it
    if owned:
        die_with_parent(int(os.environ.get("JPY_PARENT_PID", "0")))
    if "--warm" in sys.argv:
        from aigbb_inside.warm import main as serve  # type: ignore[import-not-found]

        serve(generation, lock)
        return

    if not owned:
        from aigbb_inside.relay import relay  # type: ignore[import-not-found]

        relay(generation, sys.argv[1:])
    else:
        from aigbb_inside.fonts import provide  # type: ignore[import-not-found]

        provide()
    from aigbb_inside.lean import App  # type: ignore[import-not-found]

    App.launch_instance(argv=arguments(owned=owned, given=sys.argv[1:]), owned=owned)


if __name__ == "__main__":
    main()
