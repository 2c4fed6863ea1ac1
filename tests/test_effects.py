"""Effects are inferred as `read` only where that is certain."""

from __future__ import annotations

import ast
import builtins
import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import docstring_parser
import pytest

from server import allowlist
from server.reading import FILES, read
from server.source_reader import READER
from tests.effects_samples import CHANGING, READING, TRICKS


@pytest.fixture(scope="module")
def found() -> dict[str, list[dict[str, object]]]:
    """What one reader found in all samples."""
    samples = CHANGING | READING | TRICKS
    assert len(samples) == len(CHANGING) + len(READING) + len(TRICKS)
    argv = [sys.executable, "-I", "-S", str(READER), str(Path(docstring_parser.__file__).parents[1])]
    sent = json.dumps(list(samples.values())).encode()
    done = subprocess.run(argv, input=sent, env={}, capture_output=True, check=True)
    return {
        name: facts["changes"] for name, facts in zip(samples, json.loads(done.stdout.partition(b"\n")[2]), strict=True)
    }


def test_no_tool_that_changes_a_state_is_inferred_to_read(found: dict[str, list[dict[str, object]]]) -> None:
    assert [name for name in CHANGING if not found[name]] == []


def test_no_trick_is_inferred_to_read(found: dict[str, list[dict[str, object]]]) -> None:
    assert [name for name in TRICKS if not found[name]] == []


def test_typical_tools_that_read_are_inferred_to_read(found: dict[str, list[dict[str, object]]]) -> None:
    unknown = {name: found[name] for name in READING if found[name]}
    # The order of statements does not count: a parameter stays the caller's after it was given another value.
    assert unknown == {"rank": [{"line": 4, "name": "row[...]"}]}


def test_the_samples_are_python() -> None:
    for source in [*CHANGING.values(), *READING.values(), *TRICKS.values()]:
        compile(source, "sample", "exec", ast.PyCF_ONLY_AST)


def test_no_listed_name_is_a_module() -> None:
    newer = {"batched", "sumprod", "cbrt", "exp2", "UTC", "override"}  # than Python 3.11
    for module, names in allowlist.MODULES.items():
        found = importlib.import_module("typing" if module == "typing_extensions" else module)
        missing = {name for name in names if not hasattr(found, name)}
        assert missing <= newer, module
        assert [name for name in names if isinstance(getattr(found, name, None), ModuleType)] == []
        assert not any(name.startswith("_") for name in names)


def test_listed_builtins_are_builtins() -> None:
    assert {name for name in allowlist.BUILTINS if not hasattr(builtins, name)} == set()


def test_a_finding_has_its_line_and_name() -> None:
    facts = read("import os\n\n\ndef f(x: str):\n    os.remove(x)\n    os.remove(x)\n    CART.append(x)\nCART = []\n")
    assert facts["changes"] == [{"line": 5, "name": "os.remove"}, {"line": 7, "name": "CART.append"}]


def test_the_reader_needs_its_own_files_alone(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    for file in FILES:
        (tmp_path / "server" / file.name).write_bytes(file.read_bytes())
    argv = [
        sys.executable,
        "-I",
        "-S",
        str(tmp_path / "server" / READER.name),
        str(Path(docstring_parser.__file__).parents[1]),
    ]
    done = subprocess.run(argv, input=b'["def f(): pass"]', env={}, capture_output=True, check=True)
    assert json.loads(done.stdout.partition(b"\n")[2])[0]["changes"] == []
