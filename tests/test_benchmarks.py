"""`make bench` runs, and says what it promises; how fast anything is, is not for a test to say."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks.load import Load, Target
from benchmarks.many_clients import Point, goal_rows
from benchmarks.report import Report
from benchmarks.rows import Goal, Row, quantity, ratio
from benchmarks.timing import Figures, Sample, interleave, percentile
from benchmarks.wire import Http
from tests.conftest import ROOT

pytestmark = pytest.mark.timeout(700)  # the first that needs it waits for the quick run


def bench(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "benchmarks", *map(str, arguments)]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=600)


# -- a quick run


@pytest.fixture(scope="module")
def quick(cache: Path) -> dict[str, Any]:
    finished = bench("--quick", "--json", "--cache", cache)
    assert finished.returncode == 0, finished.stderr
    found: dict[str, Any] = json.loads(finished.stdout)
    return found


@pytest.mark.nightly
def test_a_quick_run_has_every_case_that_needs_no_peer(quick: dict[str, Any]) -> None:
    cases = list(dict.fromkeys(row["case"] for row in quick["rows"]))
    ours = ["warm", "clean", "sustained", "memory", "throughput", "cold", "stream", "call", "register", "output"]
    assert cases == [*ours, "chat", "tail", "many", "floor"]


@pytest.mark.nightly
def test_figures_are_ordered(quick: dict[str, Any]) -> None:
    for row in quick["rows"]:
        for figures in filter(None, (row["ours"], row["other"])):
            assert figures["low"] <= figures["p50"] <= figures["high"] <= figures["p99"] or figures["n"] > 1, row
            assert figures["n"] >= 1


@pytest.mark.nightly
def test_ratios_are_of_the_medians_and_goals_are_held_against_them(quick: dict[str, Any]) -> None:
    for row in quick["rows"]:
        if row["other"] and row["other"]["p50"]:
            assert row["ratio"] == pytest.approx(row["ours"]["p50"] / row["other"]["p50"])
        if row["goal"] and row["goal"]["at_most"] is not None and row["goal"]["own"] is None and not row["failed"]:
            assert row["met"] == (row["ratio"] <= row["goal"]["at_most"])


@pytest.mark.nightly
def test_nothing_printed_below_the_cap_is_lost(quick: dict[str, Any]) -> None:
    [lost] = [row for row in quick["rows"] if row["unit"] == "characters"]
    assert lost["ours"]["p50"] == 0


@pytest.mark.nightly
def test_it_says_what_it_ran_on(quick: dict[str, Any]) -> None:
    assert quick["cores"] >= 1
    assert quick["steadiness"] >= 1
    assert {"Python", "jupyter_client", "uv", "fastapi", "uvloop"} <= quick["versions"]["the service"].keys()
    assert {"ipykernel", "numpy"} <= quick["versions"]["our kernels"].keys()
    assert quick["settings"]["AIGBB_MAX_RUNNING"]


@pytest.mark.nightly
def test_nothing_is_left_beside_the_cache(quick: dict[str, Any], cache: Path) -> None:
    assert not list(cache.parent.glob("bench-*"))


@pytest.mark.parametrize(
    ("more", "said"), [("--quick", "too few samples"), ("--only=warm", "leaves out"), ("--only=x", "invalid choice")]
)
def test_a_part_of_it_is_not_written_down(more: str, said: str) -> None:
    finished = bench(more, "--write")
    assert finished.returncode == 2
    assert said in finished.stderr


# -- load


class Answers(BaseHTTPRequestHandler):
    """Says yes to some, that it is busy to others, and something else to the rest."""

    protocol_version = "HTTP/1.1"
    replies = {"/yes": (200, b'{"result":"2"}'), "/busy": (503, b""), "/wrong": (200, b"3")}

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        status, body = self.replies[self.path]
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def load(url: str, *paths: str, rate: float | None = None) -> Load:
    return Load(url, {}, [Target('"2"', path=path, body={}) for path in paths], len(paths), 0.5, rate)


def test_a_closed_load_counts_what_was_answered_and_what_was_refused(url: str) -> None:
    happened = load(url, "/yes", "/busy").run()
    assert happened.refused > 0
    assert happened.rate == len(happened.milliseconds) / 0.5 > 0


def test_an_open_load_asks_as_often_as_it_should(url: str) -> None:
    happened = load(url, "/yes", "/yes", rate=40.0).run()
    assert len(happened.milliseconds) == 20
    assert happened.refused == 0


def test_a_load_whose_answers_are_wrong_is_no_result(url: str) -> None:
    with pytest.raises(RuntimeError, match="200: b'3'"):
        load(url, "/yes", "/wrong").run()


def test_a_connection_that_the_server_closed_is_opened_again(url: str) -> None:
    http = Http(url)
    assert http.request("POST", "/yes") == (200, b'{"result":"2"}')
    http.close()
    assert http.request("POST", "/yes") == (200, b'{"result":"2"}')
    http.close()


def test_a_goal_stands_beside_the_best_of_a_peer() -> None:
    nothing = load("http://127.0.0.1:1")
    points = [Point(peer, title, nothing) for peer, title in (("ours", "ours"), ("gateway", "1"), ("gateway", "2"))]
    rows = list(goal_rows(points, {"ours": [700.0], "1": [90.0], "2": [100.0]}, 8))
    assert [(row.against, row.ratio, row.met) for row in rows] == [
        ("1", pytest.approx(7.78, abs=0.01), None),
        ("2", 7, True),
    ]


# -- figures


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
    assert (figures.n, figures.p50, figures.low, figures.high) == (3, 6.0, 4.5, 8.5)
    assert figures.stages == {"one": 2.0, "two": 2.0}


@pytest.mark.parametrize(("share", "value"), [(0, 1), (0.5, 2.5), (0.99, 3.97), (1, 4)])
def test_percentiles_lie_between_neighbours(share: float, value: float) -> None:
    assert percentile([4, 1, 3, 2], share) == pytest.approx(value)


@pytest.mark.parametrize(
    ("goal", "failed", "met"),
    [
        (Goal(at_most=0.5), 0, True),
        (Goal(at_most=0.4), 0, False),
        (Goal(at_least=0.5), 0, True),
        (Goal(at_least=0.6), 0, False),
        (Goal(own=50), 0, True),
        (Goal(own=49, at_most=0.5), 0, False),
        (Goal(at_most=0.5), 1, False),
        (None, 0, None),
    ],
)
def test_a_goal_is_met_only_where_every_bound_holds(goal: Goal | None, failed: int, met: bool | None) -> None:
    assert Row("x", "", "", Figures.plain([50]), Figures.plain([100]), goal, failed=failed).met is met


@pytest.mark.parametrize(
    ("goal", "share"),
    [
        (Goal(at_most=0.25), 2.0),
        (Goal(at_least=1), 2.0),
        (Goal(own=25, at_most=1), 2.0),
        (Goal(own=0), None),
        (None, None),
    ],
)
def test_a_chart_shows_the_worst_figure_beside_its_bound(goal: Goal | None, share: float | None) -> None:
    assert Row("x", "", "", Figures.plain([50]), Figures.plain([100]), goal).share == share


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(0.123, "ms", "0.12 ms"), (4.56, "ms", "4.6 ms"), (1234.0, "ms", "1.23 s"), (1234.5, "/s", "1,234/s")],
)
def test_quantities_have_two_or_three_digits(value: float, unit: Any, text: str) -> None:
    assert quantity(value, unit) == text


@pytest.mark.parametrize(("value", "text"), [(None, ""), (0.0123, "0.012"), (0.456, "0.46"), (17.49, "17.5")])
def test_ratios_have_the_digits_that_count(value: float | None, text: str) -> None:
    assert ratio(value) == text


# -- the report


@pytest.fixture
def made_up() -> Report:
    fresh = Figures.of([{"start": 300.0, "execute": 100.0, "shutdown": 100.0}])
    floor = Figures.of([{"an echo": 10.0, "messages": 15.0}])
    rows = [
        Row("floor", "`1+1`", "the floor", Figures.of([{"all": 50.0}]), floor),
        Row("warm", "`1+1`", "another peer", Figures.of([{"all": 50.0}]), Figures.plain([40.0])),
        Row("register", "register", "by hand", Figures.of([{"all": 600.0}]), fresh, Goal(at_most=0.5)),
        Row("clean", "`1+1` on a clean kernel", "a way", Figures.of([{"all": 50.0}]), fresh, Goal(at_most=0.2)),
    ]
    return Report.of(rows, {"a peer": {"ipykernel": "7"}}, [1.0, 1.0, 2.0], 0.1)


def test_the_page_has_every_row_with_its_goal(made_up: Report) -> None:
    page = made_up.page()
    assert "| `1+1` on a clean kernel | a way | 1 | 50 ms |  | 1 | 500 ms |  | **0.10** | at most 0.2 | yes |" in page
    assert "| register | by hand | 1 | 600 ms |  | 1 | 500 ms |  | **1.20** | at most 0.5 | NO |" in page
    assert "| `1+1` | another peer | 1 | 50 ms |  | 1 | 40 ms |  | **1.25** |" in page
    assert "1 of 2 goals are met. Not met:\n- register, beside by hand." in page
    assert page.index("`1+1` on a clean kernel | a way") < page.index("register | by hand")
    assert "{" not in page


def test_the_page_says_where_time_goes(made_up: Report) -> None:
    page = made_up.page()
    assert "- `1+1`: 50 ms, which is 2.00 times the floor of 25 ms (an echo 10 ms, messages 15 ms)" in page
    assert "- **A way**: start 300 ms, execute 100 ms, shutdown 100 ms." in page


def test_the_page_says_what_it_was_measured_with(made_up: Report) -> None:
    page = made_up.page()
    assert "- A peer: ipykernel 7." in page
    assert "AIGBB_MAX_RUNNING 4" in page


def test_writing_makes_a_page_and_a_chart(made_up: Report, tmp_path: Path) -> None:
    made_up.write(tmp_path)
    assert "](benchmarks.svg)" in (tmp_path / "benchmarks.md").read_text()
    chart = (tmp_path / "benchmarks.svg").read_text()
    assert "1+1 on a clean kernel" in chart  # as a comment: the text itself is drawn
    assert "by hand 500 ms" in chart


def test_the_table_shows_every_row(made_up: Report) -> None:
    console = Console(width=160, file=io.StringIO(), record=True)
    console.print(made_up.table())
    text = console.export_text()
    assert all(shown in text for shown in ("0.10", "1.20", "1.25", "2.00"))
