"""The built wheel holds what the service needs when it is not run from a checkout."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

from uv import find_uv_bin

from tests.conftest import ROOT


def test_the_wheel_holds_code_data_and_the_command(tmp_path: Path, cache: Path) -> None:
    options: list[str | Path] = ["--wheel", "--out-dir", tmp_path, "--cache-dir", cache / "uv"]
    command = [find_uv_bin(), "build", *options, ROOT]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("aigbb_functions-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {"kernels/requirements.txt", "kernels/logo/logo-svg.svg", "kernels/logo/logo-64x64.png"}
    expected |= {"kernels/inside/launch.py", "kernels/inside/probe.py", "server/reading.py", "server/cli.py"}
    assert expected <= names
    assert not [n for n in names if n.startswith(("tests/", "benchmarks/", "aigbb_functions/"))]
    entry_points = next(n for n in names if n.endswith("entry_points.txt"))
    assert b"aigbb = server.cli:main" in zipfile.ZipFile(wheel).read(entry_points)
