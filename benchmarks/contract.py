"""What registering and calling functions costs, against the goals that it was built for."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import plain
from benchmarks.first import PACKAGES, Bench, Plan, opened
from benchmarks.plain import Stock
from benchmarks.report import duration, ratio
from benchmarks.service import ROOT, Service, running
from benchmarks.timing import Figures, Sample, interleave

FEW = 5
AT_ONCE = 50

FULL = Plan(warm=400, clean=10, register=10, packages=PACKAGES)
QUICK = Plan(warm=5, clean=1, register=1, packages=())


@dataclass(frozen=True, slots=True)
class Goal:
    """One thing measured, and what it should come to: milliseconds at most, or a fraction of the other's time."""

    name: str
    title: str
    other_way: str
    ours: Figures
    other: Figures
    milliseconds: float | None = None
    fraction: float | None = None

    @property
    def ratio(self) -> float:
        """Our time as a fraction of the other's, by medians."""
        return self.ours.p50 / self.other.p50

    @property
    def met(self) -> bool:
        """Whether the medians are what they should be."""
        in_time = self.milliseconds is None or self.ours.p50 <= self.milliseconds
        return in_time and (self.fraction is None or self.ratio <= self.fraction)

    @property
    def wanted(self) -> str:
        """The goal in words."""
        parts = [f"at most {duration(self.milliseconds)}"] if self.milliseconds is not None else []
        parts += [f"at most {self.fraction:g} of it"] if self.fraction is not None else []
        return ", ".join(parts)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {"name": self.name, "ours": self.ours.p50, "other": self.other.p50, "ratio": self.ratio, "met": self.met}


@dataclass(frozen=True)
class Contract:
    """Two services on one cache: one with few functions, one with many."""

    bench: Bench
    many: Service
    count: int
    quick: bool

    @property
    def few(self) -> Service:
        """The one with few."""
        return self.bench.spare

    def pause(self) -> None:
        """Until nothing of ours is under way."""
        self.many.settle()
        self.bench.pause()

    def calls(self) -> Iterator[Goal]:
        """A typed call."""
        self.few.register("def bench(x: int) -> int:\n    return x + 1\n", [], new_generation=False)
        session = self.few.ask("POST", "/sessions")["id"]
        self.pause()
        with self.bench.stock.running() as client:
            samples = interleave(
                self.bench.plan.warm,
                20,
                {
                    "ours": lambda n: self.few.call("bench", {"x": n}, n + 1, session),
                    "other": lambda _: plain.timed(client, "1+1", "2"),
                },
                lambda: None,
            )
        self.few.ask("DELETE", f"/sessions/{session}")
        way = "plain jupyter_client: a round trip of `1+1` to a stock kernel that runs"
        yield _goal("call", "a typed call in a session", way, samples, fraction=0.7)

    def many_functions(self) -> Iterator[Goal]:
        """Many functions beside few."""
        for service, count in ((self.few, FEW), (self.many, self.count)):
            _fill(service, count)
        rounds = self.bench.plan.register
        registered = interleave(
            rounds,
            1,
            {"ours": lambda n: _register(self.many, n), "other": lambda n: _register(self.few, n)},
            self.pause,
        )
        executed = interleave(
            self.bench.plan.clean,
            1,
            {"ours": lambda _: self.many.execute("1+1", "2"), "other": lambda _: self.few.execute("1+1", "2")},
            self.pause,
        )
        title = f"register a function beside {self.count} others, then call it"
        way = f"the same beside {FEW}"
        yield _goal("many_register", title, way, registered, fraction=1.5)
        yield _goal("many_execute", f"`1+1` on a clean kernel with {self.count} functions", way, executed, fraction=1.5)
        if not self.quick:
            alone = {"ours": registered["other"], "other": [self._build()]}
            title = "register a function without new packages, then call it on a clean kernel"
            way = "python -m venv, pip install the default packages from wheels on this disk"
            yield _goal("register", title, way, alone, milliseconds=250.0, fraction=0.05)

    def package(self) -> Iterator[Goal]:
        """One new package."""
        if self.quick:
            return
        [found] = [case for case in self.bench.package() if case.name == "package"]
        yield Goal("package", found.title, found.plain_way, found.ours, found.plain, milliseconds=1500.0)

    def _build(self) -> Sample:
        """What a person does instead: a new environment with the packages that our kernels have."""
        packages = self.few.generation()["packages"]
        wanted = [f"{n}=={packages[n]}" for n in ("ipykernel", "pydantic", "numpy", "pandas", "matplotlib")]
        folder, wheels = self.bench.folder, self.bench.folder / "default-wheels"
        plain.download(folder / "throw-away-too", wheels, wanted)
        self.pause()
        built = plain.environment(folder / "by-hand", wheels, wanted)
        kernel = Stock.write(folder, "by-hand", folder / "by-hand" / "bin" / "python")
        return {**built, **kernel.fresh("1+1", "2")}


def _goal(name: str, title: str, way: str, samples: dict[str, list[Sample]], **goal: float) -> Goal:
    return Goal(name, title, way, Figures.of(samples["ours"]), Figures.of(samples["other"]), **goal)


def _register(service: Service, number: int) -> Sample:
    source = f'def newest(x: int) -> int:\n    """Add {number}."""\n    return x + {number}\n'
    registered = service.register(source, [], new_generation=False)
    return {**registered, "first call": sum(service.execute("newest(1)", str(1 + number)).values())}


def _fill(service: Service, count: int) -> None:
    """Have so many functions, `newest` included: each with a type or two and a docstring, as people write them."""
    there = service.ask("GET", "/healthz")["functions"]
    sources = [
        f"from typing import Literal\n\n\ndef filler_{n}(text: str, count: int = {n}, how: "
        f'Literal["a", "b"] = "a") -> dict[str, int]:\n    """Do thing {n}.\n\n    Args:\n        text: Of it.\n'
        f'        count: How many.\n    """\n    return {{text: count}}\n'
        for n in range(count - 1 - there)
    ]
    for start in range(0, len(sources), AT_ONCE):
        functions = [{"source": source} for source in sources[start : start + AT_ONCE]]
        service.ask("POST", "/register/batch", {"functions": functions})


@contextmanager
def prepared(cache: Path, plan: Plan, *, quick: bool) -> Iterator[Contract]:
    """Both services, and a stock kernel."""
    with opened(cache, plan) as bench:
        (bench.folder / "many").mkdir()
        with running(bench.folder / "many", cache) as many:
            yield Contract(bench, many, 20 if quick else 500, quick)


def measure(cache: Path, *, quick: bool, say: Callable[[str], None]) -> list[Goal]:
    """Every goal, one after the other."""
    say("Starting three services ...")
    goals: list[Goal] = []
    with prepared(cache, QUICK if quick else FULL, quick=quick) as contract:
        for part in (contract.calls, contract.many_functions, contract.package):
            say(f"Measuring: {(part.__doc__ or '').rstrip('.').lower()} ...")
            goals += part()
    return goals


def table(goals: Sequence[Goal]) -> Table:
    """For people at a terminal."""
    shown = Table("p50", "ours", "the other", "ratio", "goal", "met")
    for goal in goals:
        figures = (duration(goal.ours.p50), duration(goal.other.p50), ratio(goal.ratio))
        shown.add_row(goal.title.replace("`", ""), *figures, goal.wanted, "yes" if goal.met else "NO")
    return shown


def page(goals: Sequence[Goal], load: float) -> str:
    """For docs/."""
    rows = "\n".join(
        f"| {g.title} | {g.ours.n} | {duration(g.ours.p50)} | {duration(g.ours.least)} - {duration(g.ours.most)} "
        f"| {duration(g.other.p50)} | {ratio(g.ratio)} | {g.wanted} | {'yes' if g.met else '**no**'} |"
        for g in goals
    )
    ways = "\n".join(f"- {g.title[:1].upper()}{g.title[1:]}: {g.other_way}." for g in goals)
    stages = "\n".join(
        f"- **{g.title[:1].upper()}{g.title[1:]}:** "
        + ", ".join(f"{name} {duration(median)}" for name, median in g.ours.stages.items())
        + "."
        for g in goals
    )
    return PAGE.format(rows=rows, ways=ways, stages=stages, cores=os.cpu_count(), load=f"{load:.1f}")


PAGE = """\
# What a function costs

Written by `make bench ARGS=--write`, after [the first page](benchmarks.md), whose method holds here too: one machine of
{cores} cores (load {load} before the run), samples in turn, medians. Ratios count; absolute times are that machine's.

| what | n | p50 | min - max | the other's p50 | ratio | goal | met |
|---|---|---|---|---|---|---|---|
{rows}

The other one is:

{ways}

Registering includes its parsing, the import in a process of its own, the schema, the commit and the files; "then call
it" is the first execution on a clean kernel, over HTTP. Packages come from the installer's cache, never from a network.

## Where time goes

{stages}
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write the page if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.contract", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few samples and no pip: does it run?")
    parser.add_argument("--json", action="store_true", help="answer as JSON, for programs")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks-functions.md")
    parser.add_argument("--cache", type=Path, default=ROOT / ".aigbb" / "cache", help="cache of downloaded packages")
    options = parser.parse_args(arguments)
    if options.quick and options.write:
        parser.error("--quick has too few samples to be written down")
    notes, load = Console(stderr=True), os.getloadavg()[0]
    goals = measure(options.cache.absolute(), quick=options.quick, say=notes.print)
    if options.json:
        sys.stdout.write(json.dumps([goal.as_json() for goal in goals], indent=2) + "\n")
    else:
        Console().print(table(goals))
    if options.write:
        (ROOT / "docs" / "benchmarks-functions.md").write_text(page(goals, load), encoding="utf-8")
        notes.print("Wrote docs/benchmarks-functions.md")


if __name__ == "__main__":
    main()
