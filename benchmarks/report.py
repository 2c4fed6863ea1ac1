"""What was measured, as a table, as JSON, and as a page with a chart."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from rich.table import Table

from benchmarks.timing import Case, Figures

FASTER, SLOWER, PLAIN = "#2563eb", "#d97706", "#9ca3af"


@dataclass(frozen=True)
class Report:
    """Figures and what they were measured on. steadiness: p95 / p50 of a fixed piece of work during the run."""

    cases: tuple[Case, ...]
    versions: Mapping[str, str]
    cores: int
    load: float
    steadiness: float

    @classmethod
    def of(cls, cases: Sequence[Case], packages: Mapping[str, str], spins: Sequence[float], load: float) -> Report:
        """packages: those of the measured environment. load: the machine's, before we began."""
        ours = {name: version(name) for name in ("jupyter_client", "pyzmq", "uv", "fastapi", "uvicorn")}
        versions = {"Python": platform.python_version(), "ipykernel": packages["ipykernel"], **ours}
        ordered = sorted(spins)
        steadiness = ordered[int(0.95 * (len(ordered) - 1))] / statistics.median(ordered)
        return cls(tuple(cases), versions, os.cpu_count() or 1, load, steadiness)

    def as_json(self) -> str:
        """For programs."""
        return json.dumps(
            {
                "cases": [case.as_json() for case in self.cases],
                "versions": dict(self.versions),
                "cores": self.cores,
                "load": self.load,
                "steadiness": self.steadiness,
            },
            indent=2,
        )

    def table(self) -> Table:
        """For people."""
        title = f"{self.cores} cores, load {self.load:.1f} before, steadiness {self.steadiness:.2f}"
        table = Table("p50 (min - max)", "ours", "plain jupyter_client", "ours / plain", title=title)
        for case in self.cases:
            cells = (_brief(case.ours), _brief(case.plain), ratio(case.ratio))
            table.add_row(case.title.replace("`", ""), *cells, style="bold" if case.ratio < 1 else "")
        return table

    def write(self, docs: Path) -> None:
        """The page and its chart, into the folder of the documentation."""
        docs.mkdir(exist_ok=True)
        draw(self.cases, docs / "benchmarks.svg")
        (docs / "benchmarks.md").write_text(self.page(), encoding="utf-8")

    def page(self) -> str:
        """The page, in Markdown."""
        rows = [" | ".join(["", case.title, *_cells(case), ""]).strip() for case in self.cases]
        versions = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        return PAGE.format(
            cores=self.cores,
            rows="\n".join(rows),
            versions=versions,
            load=f"{self.load:.1f}",
            steadiness=f"{self.steadiness:.2f}",
            plain_ways="\n".join(f"  - {_sentence(case.title)}: {case.plain_way}." for case in self.cases),
            shutdown=_without_shutdown(self.cases),
            stages="\n".join(_stages(case) for case in self.cases),
        )


def _cells(case: Case) -> list[str]:
    return [*_figures(case.ours), *_figures(case.plain), f"**{ratio(case.ratio)}**"]


def _figures(figures: Figures) -> list[str]:
    return [str(figures.n), duration(figures.p50), _span(figures)]


def _span(figures: Figures) -> str:
    return f"{duration(figures.least)} - {duration(figures.most)}" if figures.n > 1 else ""


def _brief(figures: Figures) -> str:
    span = f" ({_span(figures)})" if figures.n > 1 else ""
    return f"{duration(figures.p50)}{span}\nn = {figures.n}"


def duration(milliseconds: float) -> str:
    """With two or three digits."""
    if milliseconds >= 1000:
        return f"{milliseconds / 1000:.2f} s"
    return f"{milliseconds:.0f} ms" if milliseconds >= 10 else f"{milliseconds:.1f} ms"


def ratio(value: float) -> str:
    """With two digits that count."""
    return f"{value:.2f}" if value >= 0.1 else f"{value:#.2g}"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _without_shutdown(cases: Sequence[Case]) -> str:
    """How the clean cases look to somebody who would not wait for the plain kernel's end."""
    left = [(c, c.plain.p50 - c.plain.stages["shutdown"]) for c in cases if c.name.startswith("clean")]
    return ", ".join(f"{ratio(case.ours.p50 / rest)} ({case.title})" for case, rest in left)


def _stages(case: Case) -> str:
    ours, others = (
        ", ".join(f"{name} {duration(median)}" for name, median in figures.stages.items())
        for figures in (case.ours, case.plain)
    )
    return f"- **{_sentence(case.title)}.**\n  Ours: {ours}.\n  Plain: {others}."


def draw(cases: Sequence[Case], path: Path) -> None:
    """Our time as a fraction of the plain one, a bar a case."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    with mpl.rc_context({"svg.hashsalt": "aigbb"}):
        figure, axes = plt.subplots(figsize=(9, 0.9 + 0.7 * len(cases)), layout="constrained")
        shown = list(reversed(cases))
        widths = [case.ratio for case in shown]
        colours = [FASTER if width < 1 else SLOWER for width in widths]
        bars = axes.barh([_label(case) for case in shown], widths, height=0.5, color=colours, zorder=2)
        axes.bar_label(bars, [ratio(width) for width in widths], padding=4, weight="bold")
        axes.axvline(1, color=PLAIN, linewidth=2, zorder=1)
        axes.set_xlim(0, max(1.0, *widths) * 1.12)
        axes.set_xlabel("time / plain jupyter_client's time (shorter is faster)")
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def _label(case: Case) -> str:
    return f"{case.title.replace('`', '')}\n{duration(case.ours.p50)}, plain {duration(case.plain.p50)}"


PAGE = """\
# Benchmarks

Written by `make bench ARGS=--write`; `make bench` prints the same table and writes nothing.
One machine of {cores} cores shared by client, service and kernels. Absolute times are that machine's;
**the ratios are what counts**, and only to about a tenth: both sides ran in turn within one run, so noise hit both.

![Our time as a fraction of plain jupyter_client's](benchmarks.svg)

| what | ours: n | p50 | min - max | plain: n | p50 | min - max | ours / plain |
|---|---|---|---|---|---|---|---|
{rows}

A ratio below 1 means that the service is faster, above 1 that it is slower; HTTP, validation and bookkeeping are in it.
A spare is ready as long as requests come no faster than kernels start, which takes as long as the row without spares
says; beyond that, the row without spares is what callers get.

## Measured on

{versions}.

{cores} cores, with a load average of {load} before the run. A fixed piece of work, timed all along, had
p95 / p50 = {steadiness}: near 1.0 the machine was steady, far above it something else ran as well.

## Method

- Ours is the real service in a process of its own, with every setting as `make serve` has it but for its folders and
  its port (and `AIGBB_POOL_SIZE=0` where no spare is ready), and the functions that ship. The client is Python's
  http.client with one connection kept open. Time runs from before the request until the answer's JSON is decoded.
- Plain is jupyter_client's blocking client and the stock `ipykernel_launcher`, over TCP, **in the same environment**
  as our kernels. It waits for the reply *and* for idle, as we do. What it does in each case:
{plain_ways}
- Samples alternate, one of ours, one of plain. Before each slow one, all spare kernels are ready again, so that
  nothing of ours runs beside it. The first rounds are dropped. Every result is checked.
- No network: both sides install from what one earlier, untimed installation of the same packages has cached. The
  new package is another one each time, small and without dependencies. pip's way is one sample, since it takes long.

## What is not the same on both sides

- Plain stores input history in SQLite, as it does by default; our kernels don't. Plain uses TCP, ours unix sockets.
- Plain's time for a clean kernel includes its shutdown; ours ends kernels after the answer, in the background.
  Without plain's shutdown the ratios are {shutdown}.
- Our kernels have every registered function by name, with what it imports; plain
  kernels have none.
- When the package is new, pip installs ipykernel and that package alone; ours also gets numpy, pandas and matplotlib,
  imports every function in the new environment before it serves, and keeps the old one for rollback.
- A plain definition proves nothing and is kept nowhere. Ours is parsed, imported in a process of its own, given a JSON
  Schema, and committed.

## Not compared

Many clients at once; output-heavy code; other servers; memory; GPUs; networks; the first start, which downloads.

## Where time goes

Medians of each stage; they need not add up to the median of the whole. `inside the service` includes the kernel's own
time, and starting it where no spare is ready.

{stages}
"""
