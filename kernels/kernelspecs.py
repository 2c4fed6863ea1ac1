"""Kernelspecs: how Jupyter, and our own pool, find and start a generation's kernel."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernels.environments import KERNEL_PREFIX, Generation

ALIAS = "aigbb_functions"
LOGOS = Path(__file__).parent / "logo"
# jupyter_client's own way to make a process, which is everywhere that Jupyter is; and ours, in the service alone.
LOCAL, FORK = "local-provisioner", "aigbb-fork"
LAUNCHER = Path(__file__).parent / "inside" / "launch.py"


def kernel_json(generation: Generation, display_name: str, home: Path, provisioner: str = LOCAL) -> dict[str, Any]:
    """A generation's kernelspec; its provisioner is how processes are made."""
    return {
        "argv": [str(generation.python), str(LAUNCHER), "-f", "{connection_file}"],
        "display_name": display_name,
        "language": "python",
        "interrupt_mode": "signal",
        "env": {"AIGBB_KERNEL": str(generation.number), "AIGBB_GENERATION": str(generation.folder)},
        "metadata": {
            "debugger": True,
            "supported_encryption": ["curve"],
            "kernel_provisioner": {"provisioner_name": provisioner, "config": {}},
            "aigbb": {"home": str(home), "generation": generation.number},
        },
    }


@dataclass(frozen=True)
class Shelf:
    """A folder of kernelspecs: Jupyter's for the user, or a generation's own for the service."""

    folder: Path
    home: Path
    provisioner: str = LOCAL

    def put(self, generation: Generation) -> str:
        """Write the generation's kernelspec, replacing one of that name. Returns the name."""
        name = generation.kernel_name
        self._write(name, kernel_json(generation, f"Python ({name})", self.home, self.provisioner))
        return name

    def put_alias(self, generation: Generation) -> None:
        """Point the alias at a generation."""
        spec = kernel_json(generation, "aigbb functions (latest)", self.home, self.provisioner)
        self._write(ALIAS, spec)

    def prune(self, keep: Collection[str]) -> None:
        """Delete numbered kernelspecs of this home that are not kept; other homes' are left alone."""
        for path in self.folder.glob(f"{KERNEL_PREFIX}*/kernel.json"):
            if path.parent.name not in keep and self._is_ours(path):
                shutil.rmtree(path.parent)

    def _is_ours(self, path: Path) -> bool:
        try:
            spec = json.loads(path.read_text(encoding="utf-8"))
            return bool(spec["metadata"]["aigbb"]["home"] == str(self.home))
        except (OSError, ValueError, LookupError, TypeError):
            return False

    def _write(self, name: str, spec: dict[str, Any]) -> None:
        """Made aside and renamed: Jupyter never lists a half-written kernelspec."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=".aigbb-") as aside:
            made, target = Path(aside, "new"), self.folder / name
            shutil.copytree(LOGOS, made)
            (made / "kernel.json").write_text(json.dumps(spec, indent=1) + "\n", encoding="utf-8")
            if target.exists():
                target.rename(Path(aside, "old"))
            made.rename(target)
