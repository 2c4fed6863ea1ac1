"""`make bench` runs, and says what it promises; how fast anything is, is not for a test to say."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks.report import Report
from benchmarks.timing import Case, Figures, Sample, interleave
from tests.conftest import ROOT


def bench(module: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=200)


@pytest.fixture(scope="module")
def quick(cache: Path) -> dict[str, Any]:
    finished = bench("first", "--quick", "--json", "--cache", cache)
    assert finished.returncode == 0, finished.stderr
    found: dict[str, Any] = json.loads(finished.stdout)
    return found


def test_a_quick_run_has_every_case_but_the_slow_one(quick: dict[str, Any]) -> None:
    names = [case["name"] for case in quick["cases"]]
    assert names == ["warm", "clean_spare", "clean_bare", "register"]


def test_figures_are_positive_and_ordered(quick: dict[str, Any]) -> None:
    for case in quick["cases"]:
        for figures in (case["ours"], case["plain"]):
            assert 0 < figures["least"] <= figures["p50"] <= figures["most"], case
            assert figures["n"] >= 1
            assert all(time > 0 for time in figures["stages"].values()), case


def test_ratios_are_of_the_medians(quick: dict[str, Any]) -> None:
    for case in quick["cases"]:
        assert case["ratio"] == pytest.approx(case["ours"]["p50"] / case["plain"]["p50"])


def test_it_says_what_it_ran_on(quick: dict[str, Any]) -> None:
    assert quick["cores"] >= 1
    assert quick["steadiness"] >= 1
    assert {"Python", "ipykernel", "jupyter_client", "uv", "fastapi"} <= quick["versions"].keys()


def test_nothing_is_left_beside_the_cache(quick: dict[str, Any], cache: Path) -> None:
    assert not list(cache.parent.glob("bench-*"))


@pytest.mark.parametrize("module", ["first", "contract"])
def test_too_few_samples_are_not_written_down(module: str) -> None:
    finished = bench(module, "--quick", "--write")
    assert finished.returncode == 2
    assert "too few samples" in finished.stderr


def test_a_quick_run_of_functions_measures_against_their_goals(cache: Path) -> None:
    finished = bench("contract", "--quick", "--json", "--cache", cache)
    assert finished.returncode == 0, finished.stderr
    goals = {goal["name"]: goal for goal in json.loads(finished.stdout)}
    assert list(goals) == ["call", "many_register", "many_execute"]
    for goal in goals.values():
        assert goal["ratio"] == pytest.approx(goal["ours"] / goal["other"])
        assert goal["ratio"] > 0
        assert goal["met"] == (goal["ratio"] <= (0.7 if goal["name"] == "call" else 1.5))


def test_contenders_take_turns_and_the_warm_up_is_dropped() -> None:
    turns: list[tuple[str, int]] = []

    def contender(name: str) -> Any:
        def run(number: int) -> Sample:
            turns.append((name, number))
            return {"work": float(number)}

        return run

    pauses: list[None] = []
    samples = interleave(2, 1, {"a": contender("a"), "b": contender("b")}, lambda: pauses.append(None))
    assert turns == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    assert len(pauses) == len(turns)
    assert samples == {"a": [{"work": 1.0}, {"work": 2.0}], "b": [{"work": 1.0}, {"work": 2.0}]}


def test_figures_are_of_whole_samples_and_of_each_stage() -> None:
    figures = Figures.of([{"one": 1.0, "two": 5.0}, {"one": 2.0, "two": 1.0}, {"one": 9.0, "two": 2.0}])
    assert (figures.n, figures.p50, figures.least, figures.most) == (3, 6.0, 3.0, 11.0)
    assert figures.stages == {"one": 2.0, "two": 2.0}


@pytest.fixture
def made_up() -> Report:
    clean = Figures.of([{"start": 300.0, "execute": 100.0, "shutdown": 100.0}])
    cases = [
        Case("clean_spare", "`1+1` on a clean kernel", "a way", Figures.of([{"all": 50.0}]), clean),
        Case("package", "register with a package", "another way", Figures.of([{"all": 20_000.0}]), clean),
    ]
    return Report.of(cases, {"ipykernel": "7"}, [1.0, 1.0, 2.0], 0.1)


def test_the_page_shows_ratios_with_and_without_the_plain_shutdown(made_up: Report) -> None:
    page = made_up.page()
    assert "| `1+1` on a clean kernel | 1 | 50 ms |  | 1 | 500 ms |  | **0.10** |" in page
    assert "Without plain's shutdown the ratios are 0.12 (" in page
    assert "| register with a package | 1 | 20.00 s |  | 1 | 500 ms |  | **40.00** |" in page
    assert "{" not in page


def test_writing_makes_a_page_and_a_chart(made_up: Report, tmp_path: Path) -> None:
    made_up.write(tmp_path)
    assert "](benchmarks.svg)" in (tmp_path / "benchmarks.md").read_text()
    chart = (tmp_path / "benchmarks.svg").read_text()
    assert "1+1 on a clean kernel" in chart  # as a comment: the text itself is drawn
    assert "plain 500 ms" in chart


def test_the_table_marks_no_case_as_faster_that_is_not(made_up: Report) -> None:
    rows = list(zip(made_up.cases, made_up.table().rows, strict=True))
    assert [(case.ratio < 1, row.style) for case, row in rows] == [(True, "bold"), (False, "")]
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(made_up.table())
    assert "0.10" in console.export_text()
