"""IPython extension: every registered function by name, from the first cell on, and kept current."""

import contextlib
import importlib
import io
import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGE = "aigbb_functions"


class Functions:
    """Binds the functions of the generation's current snapshot in a shell's namespace.

    Before each cell it looks at one small file; when another snapshot is named there, it loads that and
    leaves alone every name that the user has bound to something else.
    """

    def __init__(self, shell: Any, generation: Path) -> None:
        self.shell = shell
        self.pointer = generation / "snapshot"
        self.snapshot = ""
        self.bound: dict[str, Any] = {}
        self.unsaid: list[str] = []

    def refresh(self, *_: Any) -> None:
        """Load the snapshot that the pointer names, if it is another one; say what could not be loaded."""
        try:
            snapshot = self.pointer.read_text(encoding="utf-8")
            if snapshot != self.snapshot:
                self.load(snapshot)
        except OSError as error:
            self.unsaid.append(f"{PACKAGE}: the functions could not be read ({error.strerror})")

    def before_cell(self, *_: Any) -> None:
        """Refresh, then print what there is to say into the cell that is about to run."""
        self.refresh()
        for line in self.unsaid:
            print(line, file=sys.stderr)
        self.unsaid.clear()

    def load(self, snapshot: str) -> None:
        """Swap the package for the one in `snapshot` and rebind its names."""
        environment = json.loads(Path(snapshot, "environment.json").read_text(encoding="utf-8"))
        os.environ.update(environment)
        module, said = import_snapshot(snapshot, self.snapshot)
        self.snapshot = snapshot
        self.unsaid += said
        self.bind({name: getattr(module, name) for name in module.__all__})

    def bind(self, functions: dict[str, Any]) -> None:
        """Replace the names bound last time by these, unless the user has taken one."""
        namespace = self.shell.user_ns
        for name, old in self.bound.items():
            if namespace.get(name) is old:
                del namespace[name]
                self.shell.user_ns_hidden.pop(name, None)
        self.bound = {name: value for name, value in functions.items() if name not in namespace}
        self.shell.push(self.bound, interactive=False)


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


def load_ipython_extension(shell: Any) -> None:
    """Called by IPython at start."""
    functions = Functions(shell, Path(os.environ["AIGBB_GENERATION"]))
    functions.refresh()
    shell.events.register("pre_run_cell", functions.before_cell)
