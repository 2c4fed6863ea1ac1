"""Matplotlib's folders: each process has its own, with the environment's list of fonts linked in.

Making that list takes over a second. It is made once per environment, by the child that compiles packages.
"""

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

FOLDER = "matplotlib"
VARIABLE = "MPLCONFIGDIR"


def provide() -> None:
    """Make the folder that the environment variable names, and link the list of fonts into it."""
    folder, lists = os.environ.get(VARIABLE), Path(sys.prefix).parent / FOLDER
    if not folder:
        return
    with contextlib.suppress(OSError):  # Matplotlib makes what it lacks
        os.makedirs(folder, mode=0o700, exist_ok=True)  # noqa: PTH103
        for name in os.listdir(lists):  # noqa: PTH208
            os.symlink(lists / name, f"{folder}/{name}")  # noqa: PTH211


@contextlib.contextmanager
def temporary() -> Iterator[None]:
    """Import Matplotlib with a folder that is gone afterwards: forks have their own."""
    before, folder = os.environ.get(VARIABLE), tempfile.mkdtemp(prefix="aigbb-matplotlib-")
    os.environ[VARIABLE] = folder
    provide()
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.environ.pop(VARIABLE)
        if before is not None:
            os.environ[VARIABLE] = before


def look_again() -> None:
    """In a fork, have Matplotlib use the folder of this process: it remembers that of the process that imported it."""
    for name in ("get_configdir", "get_cachedir"):
        remembering = getattr(sys.modules.get("matplotlib"), name, None)
        if remembering is not None and remembering.__closure__:
            cells = dict(zip(remembering.__code__.co_freevars, remembering.__closure__, strict=True))
            if "called" in cells:
                cells["called"].cell_contents = False
    folder = os.environ.get(VARIABLE)
    for name in ("matplotlib.style", "matplotlib.style.core"):
        paths = getattr(sys.modules.get(name), "USER_LIBRARY_PATHS", None)
        if folder and isinstance(paths, list):
            paths[:] = [os.path.join(folder, "stylelib")]  # noqa: PTH118
