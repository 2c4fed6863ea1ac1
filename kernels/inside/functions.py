"""IPython extension: every registered function by name, from the first cell on, and kept current."""

import contextlib
import io
import json
import logging
import os
import sys
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jupyter_core.paths import jupyter_path

from .calling import Calling
from .package import PACKAGE, Package


class Functions:
    """Keeps the functions of the generation's current snapshot in a shell's namespace.

    Before each cell it looks at one small file; when another snapshot is named there, it loads what differs.
    Names and environment variables that the user has set to something else are left alone.
    """

    def __init__(self, shell: Any, generation: Path) -> None:
        self.shell = shell
        self.pointer = str(generation / "snapshot")
        self.seen: tuple[int, ...] = ()  # what the file system says of the pointer that was followed last
        self.snapshot = ""
        self.package = Package()
        self.known: Mapping[str, Mapping[str, Any]] = {}
        self.offered: dict[str, Any] = {}
        self.failures: dict[str, str] = {}
        self.environment: dict[str, str] = {}
        self.unsaid: list[str] = []
        self.trouble = ""

    def refresh(self) -> None:
        """Load the snapshot that the pointer names, if it is another one, and bind what has no name yet."""
        try:
            stat = os.stat(self.pointer)  # noqa: PTH116  # before each cell: the quickest way to see a change
            seen = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if seen != self.seen:
                self.follow()
                self.seen = seen
            self.trouble = ""
        except OSError as error:
            self.complain(f"{PACKAGE}: the functions could not be read ({error.strerror})")
        self.bind()

    def follow(self) -> None:
        """Load what the pointer names. Raises OSError."""
        snapshot = Path(self.pointer).read_text(encoding="utf-8")
        if snapshot != self.snapshot:
            self.load(Path(snapshot))
            self.snapshot = snapshot

    def complain(self, trouble: str) -> None:
        """Say it once, not before every cell for as long as it lasts."""
        if trouble != self.trouble:
            self.unsaid.append(trouble)
        self.trouble = trouble

    def take_unsaid(self) -> list[str]:
        """What there is to say, each line once."""
        said, self.unsaid = self.unsaid, []
        return said

    def load(self, snapshot: Path) -> None:
        """Show another snapshot: load what is new or changed there, withdraw what is gone."""
        environment = json.loads((snapshot / "environment.json").read_text(encoding="utf-8"))
        functions = json.loads((snapshot / "manifest.json").read_text(encoding="utf-8"))
        moved = environment != self.environment
        os.environ.update({n: v for n, v in environment.items() if self.environment.get(n) != v})
        self.environment = environment
        stale = {n for n, f in functions.items() if moved or n in self.failures or is_stale(f, self.known.get(n))}
        if sys.path[0] != str(snapshot):
            sys.path[:] = [str(snapshot), *(entry for entry in sys.path if entry not in (str(snapshot), self.snapshot))]
        self.package.show(snapshot, functions, stale)
        gone = (self.known.keys() | self.failures.keys()) - functions.keys()
        self.shell.drop_by_id({n: self.offered.pop(n) for n in (stale | gone) & self.offered.keys()})
        self.known = functions
        for name in gone | stale:
            self.failures.pop(name, None)
        for name in sorted(stale):
            self.take(name)

    def take(self, name: str) -> None:
        """Import one function; a broken one is told, and harms no other."""
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said):
                self.offered[name] = self.package.load(name)
        except (Exception, SystemExit) as error:
            reason = traceback.format_exception_only(error)[-1].strip().partition("\n")[0]
            self.failures[name] = reason
            self.unsaid.append(f"{PACKAGE}: {name} is not available ({reason})")
        self.unsaid += said.getvalue().splitlines()

    def bind(self) -> None:
        """Give the functions their names, wherever the user has not taken one. `%reset` loses none."""
        missing = {n: f for n, f in self.offered.items() if n not in self.shell.user_ns}
        if missing:
            self.shell.push(missing, interactive=False)


def is_stale(function: Mapping[str, Any], known: Mapping[str, Any] | None) -> bool:
    """Whether a function must be imported anew: it changed, or its file uses others that may have."""
    return known is None or known["digest"] != function["digest"] or bool(function["uses"])


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
    functions = Functions(shell, generation)
    specs = () if owned else map(Path, jupyter_path("kernels", PACKAGE, "kernel.json"))
    newer = Newer(generation, specs)

    def before_cell(*_: Any) -> None:
        functions.refresh()
        for line in [*functions.take_unsaid(), *newer.news()]:
            print(line, file=sys.stderr)

    functions.refresh()
    Calling(shell, functions).attach()
    if "" not in sys.path:
        sys.path.insert(1, "")  # a cell may import what it wrote into its folder, as in any notebook
    shell.events.register("pre_run_cell", before_cell)
