"""`make nightly`: each stage is run whatever becomes of the others, and the table says what failed."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from rich.console import Console

from tests import nightly
from tests.nightly import Stage, StageResult


@pytest.fixture
def console() -> Console:
    """What is printed, as text."""
    return Console(file=io.StringIO(), width=200)


@pytest.fixture(autouse=True)
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for what stages print."""
    monkeypatch.setattr(nightly, "LOGS", tmp_path)
    monkeypatch.setattr(nightly, "ROOT", tmp_path)
    return tmp_path


def run(code: str, console: Console, times: int = 1) -> StageResult:
    """Run a stage of this code."""
    return nightly.run(Stage("a stage", [sys.executable, "-c", code], {"MARK": "set"}, times), console)


def test_a_stage_that_passes_has_its_last_line(console: Console) -> None:
    result = run("import os; print(os.environ['MARK']); print('3 passed')", console)
    assert (result.failures, result.summary) == ([], "3 passed")


def test_what_failed_is_named_once(console: Console, logs: Path) -> None:
    code = "print('FAILED tests/test_x.py::test_y - no'); print('1 failed'); raise SystemExit(1)"
    assert run(code, console, times=2).failures == ["FAILED tests/test_x.py::test_y - no"]
    assert (logs / "a-stage.log").read_text().count("1 failed") == 2


def test_a_command_that_fails_without_a_word_is_a_failure_too(console: Console) -> None:
    assert run("raise SystemExit(3)", console).failures == ["exit code 3, see a-stage.log"]
    assert run("import os; os.kill(os.getpid(), 9)", console).failures == ["exit code -9, see a-stage.log"]


def test_all_stages_are_run_and_one_that_failed_is_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], logs: Path
) -> None:
    argv = [[sys.executable, "-c", f"print('{said}'); raise SystemExit({code})"] for said, code in (("a", 1), ("b", 0))]
    found = [Stage("first one", argv[0]), Stage("second one", argv[1])]
    monkeypatch.setattr(nightly, "stages", lambda: iter(found))
    assert nightly.main([]) == 1
    shown = capsys.readouterr().out
    assert "first one" in shown and "exit code 1" in shown and "second one" in shown
    assert nightly.main(["second"]) == 0
    assert nightly.main(["third"]) == 1


def test_the_stages_are_commands_of_this_checkout(capsys: pytest.CaptureFixture[str]) -> None:
    assert nightly.main(["--list"]) == 0
    shown = capsys.readouterr().out
    for said in ("-m nightly", "tests/test_crash.py", "benchmarks.soak", "make test-finetune"):
        assert said in shown
