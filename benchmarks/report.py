"""What was measured, as a table, as JSON, and as a page with a chart."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.rows import Row, duration, quantity, ratio
from benchmarks.timing import Figures, percentile
from server import settings

MET, MISSED, LINE = "#2563eb", "#d97706", "#9ca3af"
ORDER: tuple[str, ...] = (
    "warm",
    "clean",
    "hardened",
    "sustained",
    "memory",
    "throughput",
    "cold",
    "stream",
    "call",
    "register",
    "output",
)
ORDER += ("chat", "jupyter", "tail", "many", "package", "floor")
SHOWN_SETTINGS = ("AIGBB_POOL", "AIGBB_SPARE", "AIGBB_MAX_", "AIGBB_KERNEL_")
OURS = ("jupyter_client", "pyzmq", "uv", "fastapi", "uvicorn", "uvloop", "httptools", "openai")


@dataclass(frozen=True)
class Report:
    """Rows and what they were measured on. steadiness: p95 / p50 of a fixed piece of work during the run.

    versions: of every package that counts, by whose it is. notes: what a person wrote about it.
    """

    rows: tuple[Row, ...]
    versions: Mapping[str, Mapping[str, str]]
    cores: int
    load: float
    steadiness: float
    notes: str = ""

    @classmethod
    def of(
        cls, rows: Iterable[Row], versions: Mapping[str, Mapping[str, str]], spins: Sequence[float], load: float
    ) -> Report:
        """versions: what the others and our kernels have. load: the machine's, before we began."""
        ours = {"Python": platform.python_version(), **{name: version(name) for name in OURS}}
        steadiness = percentile(spins, 0.95) / statistics.median(spins) if spins else 1.0
        ordered = sorted(rows, key=lambda row: ORDER.index(row.case))
        return cls(tuple(ordered), {"the service": ours, **versions}, os.cpu_count() or 1, load, steadiness)

    @property
    def goals(self) -> list[Row]:
        """Rows that have one."""
        return [row for row in self.rows if row.goal]

    @property
    def others(self) -> list[Row]:
        """Rows that are there to compare."""
        return [row for row in self.rows if not row.goal and row.case != "floor"]

    def as_json(self) -> str:
        """For programs."""
        found: dict[str, Any] = {
            "rows": [row.as_json() for row in self.rows],
            "versions": {whose: dict(found) for whose, found in self.versions.items()},
            "settings": shown_settings(),
            "cores": self.cores,
            "load": self.load,
            "steadiness": self.steadiness,
        }
        return json.dumps(found, indent=2)

    def table(self) -> Table:
        """For people."""
        title = f"{self.cores} cores, load {self.load:.1f} before, steadiness {self.steadiness:.2f}"
        table = Table("p50 (middle half)", "beside", "ours", "the other", "ratio", "goal", "met", title=title)
        for row in (*self.goals, *self.others, *(row for row in self.rows if row.case == "floor")):
            figures = (_brief(row.ours, row), _brief(row.other, row), ratio(row.ratio), wanted(row), met(row))
            table.add_row(row.title.replace("`", ""), row.against.replace("`", ""), *figures)
        return table

    def write(self, docs: Path) -> None:
        """The page and its chart, into the folder of the documentation."""
        docs.mkdir(exist_ok=True)
        draw(self.goals, docs / "benchmarks.svg")
        (docs / "benchmarks.md").write_text(self.page(), encoding="utf-8")

    def page(self) -> str:
        """The page, in Markdown."""
        return PAGE.format(
            cores=self.cores,
            load=f"{self.load:.1f}",
            steadiness=f"{self.steadiness:.2f}",
            summary=self.summary(),
            goals="\n".join(_line([*_cells(row), wanted(row), met(row)]) for row in self.goals),
            others="\n".join(_line(_cells(row)) for row in self.others),
            versions="\n".join(f"- {sentence(whose)}: {_listed(found)}." for whose, found in self.versions.items()),
            settings=_listed(shown_settings()),
            floor="\n".join(_floor_line(row) for row in self.rows if row.case == "floor"),
            stages="\n".join(_stages(self.rows)),
            notes=f"\n{self.notes}" if self.notes else "",
        )

    def summary(self) -> str:
        """How many goals are met, and which aren't."""
        missed = [row for row in self.goals if not row.met]
        found = f"{len(self.goals) - len(missed)} of {len(self.goals)} goals are met."
        if not missed:
            return found
        return found + " Not met:\n" + "\n".join(f"- {row.title}, beside {row.against}." for row in missed)


def shown_settings() -> dict[str, str]:
    """Those that decide how fast the service is, at their defaults: nothing else was measured."""
    return {name: default for name, default, _ in settings.rows() if name.startswith(SHOWN_SETTINGS)}


def wanted(row: Row) -> str:
    """The goal in words."""
    return row.goal.words(row.unit) if row.goal else ""


def met(row: Row) -> str:
    """Whether it is met, and why it isn't where requests were refused."""
    refused = f" ({row.failed} refused)" if row.failed else ""
    return "" if row.met is None else f"{'yes' if row.met else 'NO'}{refused}"


def sentence(text: str) -> str:
    """With a capital letter."""
    return text[:1].upper() + text[1:]


def _cells(row: Row) -> list[str]:
    return [row.title, row.against, *_figures(row.ours, row), *_figures(row.other, row), f"**{ratio(row.ratio)}**"]


def _figures(figures: Figures | None, row: Row) -> list[str]:
    return [str(figures.n), quantity(figures.p50, row.unit), _span(figures, row)] if figures else ["", "", ""]


def _span(figures: Figures, row: Row) -> str:
    return f"{quantity(figures.low, row.unit)} - {quantity(figures.high, row.unit)}" if figures.n > 1 else ""


def _brief(figures: Figures | None, row: Row) -> str:
    if figures is None:
        return ""
    span = f" ({_span(figures, row)})" if figures.n > 1 else ""
    return f"{quantity(figures.p50, row.unit)}{span}\nn = {figures.n}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |".replace("****", "")


def _listed(found: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in found.items())


def _floor_line(row: Row) -> str:
    assert row.other
    parts = ", ".join(f"{name} {duration(median)}" for name, median in row.other.stages.items())
    return (
        f"- {sentence(row.title)}: {duration(row.ours.p50)}, which is {ratio(row.ratio)} times the floor of "
        f"{duration(row.other.p50)} ({parts}); the difference is {duration(row.ours.p50 - row.other.p50)}."
    )


def _stages(rows: Iterable[Row]) -> Iterable[str]:
    """Each thing once, where it is known what it was made of."""
    found: dict[str, str] = {}
    for row in rows:
        for whose, figures in ((f"{row.title}, ours", row.ours), (row.against, row.other)):
            if figures and len(figures.stages) > 1 and row.case != "floor":
                parts = ", ".join(f"{name} {duration(median)}" for name, median in figures.stages.items())
                found.setdefault(whose, f"- **{sentence(whose)}**: {parts}.")
    return found.values()


def draw(rows: Sequence[Row], path: Path) -> None:
    """How far each figure is from its goal, a bar a row."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    shown = [(row, share) for row in reversed(rows) if (share := row.share) is not None]
    with mpl.rc_context({"svg.hashsalt": "aigbb"}):
        figure, axes = plt.subplots(figsize=(11, 0.9 + 0.45 * len(shown)), layout="constrained")
        widths = [share for _, share in shown]
        colours = [MET if row.met else MISSED for row, _ in shown]
        bars = axes.barh(range(len(shown)), widths, 0.55, color=colours, zorder=2)
        axes.set_yticks(range(len(shown)), [_label(row) for row, _ in shown], fontsize=8)
        axes.bar_label(bars, [f"{ratio(row.ratio)} ({wanted(row)})" for row, _ in shown], padding=4, fontsize=8)
        axes.set_xscale("log")
        axes.set_xlim(min(1.0, *widths) / 2, max(1.0, *widths) * 8)
        axes.margins(y=0.01)
        axes.axvline(1, color=LINE, linewidth=2, zorder=1)
        axes.set_xlabel("figure / goal, logarithmic: left of the line it is met")
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def _label(row: Row) -> str:
    assert row.other
    against = re.split("[:,]", row.against)[0]
    figures = f"{quantity(row.ours.p50, row.unit)}, {against} {quantity(row.other.p50, row.unit)}"
    return f"{row.title.replace('`', '')}\n{figures.replace('`', '')}"


PAGE = """\
# Benchmarks

Written by `make bench ARGS=--write`; `make bench` prints the same table and writes nothing.
One machine of {cores} cores shared by clients, servers and kernels. Absolute figures are that machine's;
**the ratios are what counts**, and only to about a tenth: contenders took turns within one run, so noise hit all alike.

{summary}

![How far each figure is from its goal](benchmarks.svg)

| what | beside | n | p50 | middle half | n | the other's p50 | middle half | ratio | goal | met |
|---|---|---|---|---|---|---|---|---|---|---|
{goals}

A ratio is our median over the other's. For times and memory, below 1 is better; for requests a second, above 1 is.
HTTP, validation and bookkeeping are in our figures. For a row with several peers' settings, the goal stands beside the
best of them.

## Beside others, without a goal

| what | beside | n | p50 | middle half | n | the other's p50 | middle half | ratio |
|---|---|---|---|---|---|---|---|---|
{others}

## Where time goes

The floor is an echo through uvicorn and FastAPI, and the five signed messages of an execution exchanged over unix
sockets with a kernel that does nothing: about the least that HTTP and Jupyter's protocol cost in Python.

{floor}

Medians of each stage; they need not add up to the median of the whole. `inside the service` includes the kernel's own
time.

{stages}
{notes}
## Measured on

{versions}

{cores} cores, with a load average of {load} before the run. A fixed piece of work, timed all along, had
p95 / p50 = {steadiness}: near 1.0 the machine was steady, far above it something else ran as well.

## Method

- Ours is the real service in a process of its own, with every setting as `make serve` has it but for its folders and
  its port, and the functions that ship. The settings that matter here: {settings}. One exception: where
  no spare is ready, `AIGBB_POOL_SIZE` is 0, because otherwise one would be.
- Every HTTP server is asked by the same client, a bare socket that stays open; time runs until the answer's JSON is
  decoded. Every result is checked. There is no cache of results anywhere.
- Plain is jupyter_client's blocking client and the stock `ipykernel_launcher`, over TCP, with its bytecode compiled. It
  waits for the reply *and* for idle, as we do. A cold stock kernel is timed without jupyter_client's fixed
  waits: the request is sent at once, and the clock stops at the reply. The documented `start_new_kernel` has them.
- Peers come from the index, each in an environment of its own, bytecode compiled, with the stock ipykernel:
  FastAPI as `uvicorn app:app` with `uvicorn[standard]`; kernel_gateway as `jupyter kernelgateway`, with a
  notebook's cell as the route, and with one websocket a client; jupyter_server as `jupyter server`, with
  jupyter_kernel_client. None stores input history where a client can choose.
- Jupyter's servers never set TCP_NODELAY on a kernel's websocket, so that each execution waits about 40 ms for Nagle's
  algorithm. They are measured as shipped, and with `set_nodelay(True)` in `KernelWebsocketHandler.open` and
  `limit_rate=False`, which is the honest rival.
- Samples alternate, one of each contender. Before slow ones all spare kernels are ready again, and nothing of ours
  runs. The first rounds are dropped.
- Load comes from a process of its own, the same for every peer. Requests a second: each client sends its next request
  once it has its answer. At a steady rate: requests are due at even intervals, and a time runs from
  when its request was due, so that waiting counts.
- Memory is that of kernels that have imported the libraries in one execution and wait. The server's peak is its
  resident memory, polled every millisecond.
- No network while the clock runs: both sides install from what an earlier, untimed installation has cached. pip's way
  is one sample, since it takes long.

## What is not the same on both sides

- Plain, used as documented, stores input history in SQLite; our kernels don't. Plain uses TCP, ours unix sockets.
- A fresh kernel's time includes its shutdown; ours ends kernels after the answer, in the background. In the rows of
  requests a second, and at a steady rate, that work is in our figures.
- Of 10 MB of stdout, plain takes every character; ours keeps what `AIGBB_MAX_OUTPUT` allows and says that it was cut.
- notebook-http runs code that its notebook holds, not code that a caller sends, and answers the result's text alone.
- The memory that our kernels share with the process that they were forked from is in PSS, not in USS.
- When the package is new, pip installs ipykernel and that package alone; ours also gets numpy, pandas and matplotlib,
  imports every function in the new environment before it serves, and keeps the old one for rollback.
- A plain definition proves nothing and is kept nowhere. Ours is parsed, imported in a process of its own, given a JSON
  Schema, and committed.

## Not compared

Networks and large requests; GPUs; containers; jupyter_server under many clients, whose kernels' websockets are the
kernel_gateway's; servers that need a container or an account to run; output through the peers, some of which drop
it at such speed; the first start, which downloads.
"""
