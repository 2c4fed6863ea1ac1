"""IPython extension: every registered function by name, from the first cell on, and kept current."""

import contextlib
import json
import logging
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jupyter_core.paths import jupyter_path

from .calling import Calling
from .library import Library
from .package import PACKAGE


class Functions:
    """A library's functions by name in a shell's namespace, and never in the place of what the user bound."""

    def __init__(self, shell: Any, library: Library) -> None:
        self.shell = shell
        self.library = library
        self.edition = 0
        self.offered: dict[str, Any] = {}

    def refresh(self) -> None:
        """Bring the library up to date, withdraw what is gone or replaced, and bind what has no name yet."""
        self.library.refresh()
        if self.edition != self.library.edition:
            functions = self.library.functions
            self.shell.drop_by_id({n: f for n, f in self.offered.items() if functions.get(n) is not f})
            self.offered = dict(functions)
            self.edition = self.library.edition
        missing = {n: f for n, f in self.offered.items() if n not in self.shell.user_ns}  # also after `%reset`
        if missing:
            self.shell.push(missing, interactive=False)

    @property
    def known(self) -> Mapping[str, Mapping[str, Any]]:
        """The snapshot's manifest."""
        return self.library.known

    @property
    def failures(self) -> Mapping[str, str]:
        """Why a function could not be imported, by name."""
        return self.library.failures

    def take_unsaid(self) -> list[str]:
        """What there is to say, each line once."""
        return self.library.take_unsaid()


class Newer:
    """Notices when Jupyter offers a newer generation of this home than the one that the kernel runs on.

    The sign is the kernelspec that always means the latest: it is written when a generation has come to
    serve, never before, and it is what the user picks to get there.
    """

    def __init__(self, generation: Path, specs: Iterable[Path]) -> None:
        self.home = str(generation.parents[1])
        self.known = int(generation.name)
        self.specs = tuple(specs)

    def news(self) -> list[str]:
        """One line when there is a newer one that was not mentioned yet."""
        number, name = self.latest()
        if number <= self.known:
            return []
        self.known = number
        how = f'To switch, pick the kernel again: "{name}"'
        return [f"{PACKAGE}: kernel {number} has new packages; this kernel stays as it is. {how}."]

    def latest(self) -> tuple[int, str]:
        """The latest generation and its name in the kernel picker; 0 if Jupyter knows none."""
        for path in self.specs:
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                spec = json.loads(path.read_text(encoding="utf-8"))
                if spec["metadata"]["aigbb"]["home"] == self.home:
                    return int(spec["metadata"]["aigbb"]["generation"]), str(spec["display_name"])
        return 0, ""


def load_ipython_extension(shell: Any) -> None:
    """Called by IPython at start. A service replaces the kernels it owns by itself: no news for those."""
    owned = os.environ.pop("AIGBB_OWNED", "") == "1"
    if owned:
        # Its handler shows warnings only, but the logger makes a record of each step of each request.
        shell.kernel.log.setLevel(logging.WARNING)
    generation = Path(os.environ["AIGBB_GENERATION"])
    # A warm parent, if the process was forked from one, has the functions already.
    library = getattr(sys.modules.get(PACKAGE), "__library__", None) or Library(generation)
    if not owned:
        library.give(None)  # a notebook gets none: what is missing is told when it is used
    functions = Functions(shell, library)
    shell.kernel.library = library
    specs = () if owned else map(Path, jupyter_path("kernels", PACKAGE, "kernel.json"))
    newer = Newer(generation, specs)

    def before_cell(*_: Any) -> None:
        functions.refresh()
        for line in [*library.take_unsaid(), *newer.news()]:
            print(line, file=sys.stderr)

    functions.refresh()
    Calling(shell, functions).attach()
    if "" not in sys.path:
        sys.path.insert(1, "")  # a cell may import what it wrote into its folder, as in any notebook
    shell.events.register("pre_run_cell", before_cell)
