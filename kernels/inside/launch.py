"""A kernel's main program: `python launch.py -f CONNECTION_FILE`, as the kernelspec says.

Needs AIGBB_GENERATION, the folder of its environment. AIGBB_OWNED=1 says that a service owns the kernel:
then it keeps no history file and dies with the service.
"""

import ctypes
import fcntl
import importlib.util
import os
import signal
import sys
from pathlib import Path

HERE = Path(__file__).parent


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


def die_with_parent() -> None:
    """Ask Linux for SIGKILL when the service ends; elsewhere ipykernel's parent poller does it."""
    parent = int(os.environ.get("JPY_PARENT_PID", "0"))
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0)
        if parent and os.getppid() != parent:
            os._exit(1)


def main() -> None:
    """Prepare the process, then hand it to ipykernel."""
    hold(Path(os.environ["AIGBB_GENERATION"]))
    become_importable()
    arguments = [*sys.argv[1:], "--IPKernelApp.extra_extensions=aigbb_inside.functions"]
    if os.environ.get("AIGBB_OWNED") == "1":  # the extension removes it
        die_with_parent()
        # No history database, and no pause after each execution, which is there for slow terminals.
        arguments += ["--HistoryManager.enabled=False", "--Kernel._execute_sleep=0"]
        arguments += ["--IPKernelApp.outstream_class=aigbb_inside.streams.Stream"]

    from ipykernel.kernelapp import launch_new_instance

    launch_new_instance(argv=arguments)


if __name__ == "__main__":
    main()
