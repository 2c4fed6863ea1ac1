"""Hints: said where there is something to say, and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest

from kernels.outputs import Error
from server.hints import Hint, hint_for

FUNCTIONS = {"word_count": "word_count(text: str) -> dict[str, int]", "plot_series": "plot_series(values)"}


def hint(ename: str, evalue: str, *frames: str) -> Hint | None:
    """What is said of an exception."""
    return hint_for(Error(ename, evalue, frames), FUNCTIONS)


@pytest.mark.parametrize(
    ("misspelt", "meant"), [("word_cuont", "word_count"), ("wordcount", "word_count"), ("plot_serie", "plot_series")]
)
def test_a_misspelt_function_is_recognised(misspelt: str, meant: str) -> None:
    expected = Hint(f"Did you mean the function {meant!r}?", {"replace": {misspelt: meant}})
    assert hint("NameError", f"name {misspelt!r} is not defined") == expected


@pytest.mark.parametrize(
    ("module", "package"),
    [("humanize", "humanize"), ("cv2.gapi", "opencv-python-headless"), ("yaml", "PyYAML"), ("sklearn", "scikit-learn")],
)
def test_a_missing_module_names_its_package_as_a_program_can_apply_it(module: str, package: str) -> None:
    expected = Hint(
        f'Kernels have what registered functions ask for: register one with "packages": ["{package}"].',
        {"packages": [package]},
    )
    assert hint("ModuleNotFoundError", f"No module named '{module}'") == expected


@pytest.mark.parametrize(
    "said",
    [
        "word_count() missing 1 required positional argument: 'text'",
        "word_count() got an unexpected keyword argument 'txt'",
        "word_count() takes 1 positional argument but 3 were given",
    ],
)
def test_wrong_arguments_are_answered_with_the_signature(said: str) -> None:
    assert hint("TypeError", said) == Hint("Call it as word_count(text: str) -> dict[str, int].")


FRAMES = ("Traceback (most recent call last)", "Cell In[1], line 1\n----> 1 os.environ['API_KEY']")


def test_a_missing_variable_is_named() -> None:
    expected = Hint(
        'The kernel has no variable API_KEY: register the function with "env": {"API_KEY": "..."}, '
        'or with "secrets": ["API_KEY"] if nobody else may read it.',
        {"env": ["API_KEY"]},
    )
    assert hint("KeyError", "'API_KEY'", *FRAMES) == expected


@pytest.mark.parametrize(
    ("ename", "evalue", "frames"),
    [
        ("NameError", "name 'x' is not defined", ()),
        ("NameError", "odd text", ()),
        ("ValueError", "name 'word_cuont' is not defined", ()),
        ("ModuleNotFoundError", "odd text", ()),
        ("ImportError", "No module named 'humanize'", ()),
        ("TypeError", "somebody_elses() missing 1 required positional argument: 'x'", ()),
        ("TypeError", "unsupported operand type(s) for +: 'int' and 'str'", ()),
        ("KeyError", "'API_KEY'", ("Cell In[1], line 1\n----> 1 table['API_KEY']",)),
        ("KeyError", "('API', 'KEY')", FRAMES),
        ("KeyError", "'two words'", FRAMES),
        ("KeyError", "3", FRAMES),
    ],
)
def test_of_all_else_nothing_is_said(ename: str, evalue: str, frames: tuple[str, ...]) -> None:
    assert hint(ename, evalue, *frames) is None


def test_without_an_error_there_is_no_hint() -> None:
    assert hint_for(None, FUNCTIONS) is None


@pytest.mark.parametrize("functions", [{}, {"f": ""}])
def test_without_functions_nothing_is_near(functions: dict[str, Any]) -> None:
    assert hint_for(Error("NameError", "name 'word_cuont' is not defined", ()), functions) is None
