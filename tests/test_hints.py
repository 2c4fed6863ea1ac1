"""Hints: said where there is something to say, and nowhere else."""

from __future__ import annotations

import pytest

from kernels.outputs import Error
from server.hints import hint_for

FUNCTIONS = ["word_count", "plot_series"]


@pytest.mark.parametrize(
    ("ename", "evalue", "hint"),
    [
        ("NameError", "name 'word_cuont' is not defined", "Did you mean the function 'word_count'?"),
        ("NameError", "name 'x' is not defined", None),
        ("NameError", "odd text", None),
        ("ValueError", "name 'word_cuont' is not defined", None),
    ],
)
def test_a_misspelt_function_is_recognised(ename: str, evalue: str, hint: str | None) -> None:
    assert hint_for(Error(ename, evalue, ()), FUNCTIONS) == hint


@pytest.mark.parametrize(("module", "package"), [("humanize", "humanize"), ("cv2.gapi", "opencv-python-headless")])
def test_a_missing_module_names_its_package(module: str, package: str) -> None:
    hint = hint_for(Error("ModuleNotFoundError", f"No module named '{module}'", ()), FUNCTIONS)
    assert hint is not None
    assert f'"packages": ["{package}"]' in hint


def test_without_an_error_there_is_no_hint() -> None:
    assert hint_for(None, FUNCTIONS) is None
