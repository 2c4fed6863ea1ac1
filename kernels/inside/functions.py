"""IPython extension: every registered function by name, from the first cell on, and kept current."""

import contextlib
import importlib
import io
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from jupyter_core.paths import jupyter_path

PACKAGE = "aigbb_functions"


class Functions:
    """Keeps the functions of the generation's current snapshot in a shell's namespace.

    Before each cell it looks at one small file; when another snapshot is named there, it loads that. Names
    and environment variables that the user has set to something else are left alone.
    """

    def __init__(self, shell: Any, generation: Path) -> None:
        self.shell = shell
        self.pointer = generation / "snapshot"
        self.snapshot = ""
        self.offered: dict[str, Any] = {}
        self.environment: dict[str, str] = {}
        self.unsaid: list[str] = []
        self.trouble = ""

    def refresh(self) -> None:
        """Load the snapshot that the pointer names, if it is another one, and bind what has no name yet."""
        try:
            snapshot = self.pointer.read_text(encoding="utf-8")
            if snapshot != self.snapshot:
                self.load(snapshot)
            self.trouble = ""
        except OSError as error:
            self.complain(f"{PACKAGE}: the functions could not be read ({error.strerror})")
        self.bind()

    def complain(self, trouble: str) -> None:
        """Say it once, not before every cell for as long as it lasts."""
        if trouble != self.trouble:
            self.unsaid.append(trouble)
        self.trouble = trouble

    def take_unsaid(self) -> list[str]:
        """What there is to say, each line once."""
        said, self.unsaid = self.unsaid, []
        return said

    def load(self, snapshot: str) -> None:
        """Swap the package for the one in `snapshot` and withdraw the names of the one before."""
        environment = json.loads(Path(snapshot, "environment.json").read_text(encoding="utf-8"))
        os.environ.update({n: v for n, v in environment.items() if self.environment.get(n) != v})
        self.environment = environment
        module, said = import_snapshot(snapshot, self.snapshot)
        self.snapshot = snapshot
        self.unsaid += said
        self.shell.drop_by_id(self.offered)
        self.offered = {name: getattr(module, name) for name in module.__all__}

    def bind(self) -> None:
        """Give the functions their names, wherever the user has not taken one. `%reset` loses none."""
        missing = {n: f for n, f in self.offered.items() if n not in self.shell.user_ns}
        if missing:
            self.shell.push(missing, interactive=False)


def import_snapshot(snapshot: str, old: str) -> tuple[ModuleType, list[str]]:
    """Import the package from a snapshot. Returns it and the lines it wrote about broken functions."""
    for name in [n for n in sys.modules if n == PACKAGE or n.startswith(f"{PACKAGE}.")]:
        del sys.modules[name]
    sys.path[:] = [snapshot, *(entry for entry in sys.path if entry not in (snapshot, old))]
    importlib.invalidate_caches()
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        module = importlib.import_module(PACKAGE)
    return module, said.getvalue().splitlines()


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
    generation = Path(os.environ["AIGBB_GENERATION"])
    functions = Functions(shell, generation)
    specs = () if owned else map(Path, jupyter_path("kernels", PACKAGE, "kernel.json"))
    newer = Newer(generation, specs)

    def before_cell(*_: Any) -> None:
        functions.refresh()
        for line in [*functions.take_unsaid(), *newer.news()]:
            print(line, file=sys.stderr)

    functions.refresh()
    if "" not in sys.path:
        sys.path.insert(1, "")  # a cell may import what it wrote into its folder, as in any notebook
    shell.events.register("pre_run_cell", before_cell)
