"""What all commands share: problems in words, tables, colours."""

from __future__ import annotations

from typing import Any

import pytest
import typer
from rich.console import Console

from server import printing
from server.client import ServiceProblem


@pytest.mark.parametrize(
    ("body", "lines"),
    [
        ({"fix": {"packages": ["PyYAML", "six>=1"]}}, ["try: --package PyYAML --package 'six>=1'"]),
        ({"fix": {"env": ["A", "B"]}}, ["try: --env A=... --env B=..."]),
        ({"fix": {"rename": {"a": "b"}, "name": "c"}}, ["try: b instead of a, name c"]),
        ({"fix": {"something": "new"}}, []),
        ({"candidates": ["f", "g"]}, ["  it defines: f, g"]),
        ({"suggestions": ["six"]}, ["  did you mean: six"]),
        ({"functions": [{"function": "f", "error": "no"}]}, ["  f: no"]),
        ({"give_way": ["f@1"]}, ["  would have to give way: f@1"]),
        (
            {"requirements": [{"requirement": "six<1", "functions": ["f", "g"]}]},
            ["  six<1  asked for by f, g"],
        ),
        ({"traceback": ["line 1"], "log": "a\nb"}, ["  line 1", "  a", "  b"]),
        ({"hint": "Do [this]."}, ["Do [this]."]),
    ],
)
def test_a_problem_says_all_that_it_knows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], body: dict[str, Any], lines: list[str]
) -> None:
    monkeypatch.setattr(printing, "err", Console(width=100, stderr=True))

    @printing.command
    def fails() -> None:
        raise ServiceProblem({"code": "some_code", "detail": "What [happened].", **body})

    with pytest.raises(typer.Exit) as ended:
        fails()
    assert ended.value.exit_code == 2
    assert capsys.readouterr().err.splitlines() == ["some_code  What [happened].", *lines]


@pytest.mark.parametrize(("terminal", "printed"), [(False, "x = 1\n"), (True, "\x1b[")])
def test_source_has_colours_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], terminal: bool, printed: str
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(printing, "out", Console(force_terminal=terminal, color_system="standard"))
    printing.print_code("x = 1\n", "python")
    assert printed in capsys.readouterr().out


def test_a_narrow_table_keeps_every_letter_and_no_empty_column(capsys: pytest.CaptureFixture[str]) -> None:
    printing.print_table("T", ("a", "empty", "long"), [("1", "", "abcdefghij"), ("2", "", "x")], Console(width=15))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert lines == ["│ 1 │ abcdefg │", "│   │ hij     │", "│ 2 │ x       │"]
