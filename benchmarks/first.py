"""`make bench`: this checkout beside plain jupyter_client, as ratios within one run."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rich.console import Console

from benchmarks import plain, report
from benchmarks.plain import Stock
from benchmarks.service import ROOT, Service, running
from benchmarks.timing import Case, Contender, Figures, Sample, interleave, spin

# Small, pure Python, without dependencies of their own, and not in an environment by default.
PACKAGES = ("inflection", "toolz", "humanize", "cachetools", "sortedcontainers")

ENVIRONMENT_WAY = "python -m venv, pip install ipykernel and the package, start_new_kernel, execute, shutdown"
FRESH_WAY = "start_new_kernel, execute, shutdown"


@dataclass(frozen=True)
class Plan:
    """How many samples of what."""

    warm: int
    clean: int
    register: int
    packages: tuple[str, ...]


FULL = Plan(warm=400, clean=12, register=10, packages=PACKAGES)
QUICK = Plan(warm=5, clean=1, register=1, packages=())


@dataclass(frozen=True)
class Bench:
    """What is measured: two services with homes of their own on one cache, and stock kernels of the same Python.

    spare keeps clean kernels ready, as `make serve` does; bare keeps none.
    """

    folder: Path
    plan: Plan
    spare: Service
    bare: Service
    spins: list[float]

    @cached_property
    def python(self) -> Path:
        """The interpreter of the first generation, which stock kernels run on as well."""
        return (
            self.folder / "spare" / "home" / "generations" / str(self.spare.generation()["number"]) / "venv/bin/python"
        )

    @cached_property
    def stock(self) -> Stock:
        """The stock kernel of that interpreter."""
        return Stock.write(self.folder, "stock", self.python)

    def pause(self) -> None:
        """Until nothing of ours is under way; the machine's own noise is measured meanwhile."""
        self.spare.settle()
        self.spins.append(spin())

    # -- the cases

    def warm(self) -> Iterator[Case]:
        """A kernel that runs already."""
        session = self.spare.ask("POST", "/sessions")["id"]
        self.pause()
        with self.stock.running() as client:
            contenders: dict[str, Contender] = {
                "ours": lambda _: self.spare.execute("1+1", "2", session),
                "plain": lambda _: plain.timed(client, "1+1", "2"),
            }
            samples = interleave(self.plan.warm, 20, contenders, lambda: None)
        self.spare.ask("DELETE", f"/sessions/{session}")
        yield _case("warm", "`1+1` in a session", "a round trip to a kernel that runs", samples)

    def clean(self) -> Iterator[Case]:
        """A kernel that nobody used before."""
        contenders: dict[str, Contender] = {
            "spare": lambda _: self.spare.execute("1+1", "2"),
            "bare": lambda _: self.bare.execute("1+1", "2"),
            "plain": lambda _: self.stock.fresh("1+1", "2"),
        }
        samples = interleave(self.plan.clean, 1, contenders, self.pause)
        for name, title in (("spare", "a spare is ready"), ("bare", "no spare is ready")):
            pair = {"ours": samples[name], "plain": samples["plain"]}
            yield _case(f"clean_{name}", f"`1+1` on a clean kernel, {title}", FRESH_WAY, pair)

    def register(self) -> Iterator[Case]:
        """From a new version of a function to its first result."""
        contenders: dict[str, Contender] = {"ours": self._register, "plain": self._define}
        samples = interleave(self.plan.register, 1, contenders, self.pause)
        way = "start_new_kernel, execute the function's source and the call, shutdown"
        yield _case("register", "register a function, then call it on a clean kernel", way, samples)

    def package(self) -> Iterator[Case]:
        """From a function with a package that no environment has yet to its first result."""
        if not self.plan.packages:
            return
        everything = "".join(f"import {name}\n" for name in self.plan.packages)
        body = {"source": f"{everything}\ndef all_of_them() -> None: ...\n", "packages": list(self.plan.packages)}
        self.bare.ask("POST", "/register", body)  # another home: only the cache of wheels is shared
        middle = len(self.plan.packages) // 2
        ours, others = [], []
        for number, name in enumerate(self.plan.packages):
            self.pause()
            ours.append(self._register_package(name))
            if number == middle:
                others.append(self._install(name))
        samples = {"ours": ours, "plain": others}
        title = "register a function with a new small package, then call it"
        yield _case("package", title, ENVIRONMENT_WAY, samples)

    # -- samples

    def _register(self, number: int) -> Sample:
        source = f'def bench(x: int) -> int:\n    """Add {number}."""\n    return x + {number}\n'
        registered = self.spare.register(source, [], new_generation=False)
        return _and_call(registered, self.spare.execute("bench(1)", str(1 + number)))

    def _define(self, number: int) -> Sample:
        source = f'def bench(x: int) -> int:\n    """Add {number}."""\n    return x + {number}\n\nbench(1)'
        return self.stock.fresh(source, str(1 + number))

    def _register_package(self, name: str) -> Sample:
        source = f"import {name}\n\ndef uses_{name}() -> str:\n    return {name}.__name__\n"
        registered = self.spare.register(source, [name], new_generation=True)
        return _and_call(registered, self.spare.execute(f"uses_{name}()", f"'{name}'"))

    def _install(self, name: str) -> Sample:
        wheels, folder = self.folder / "wheels", self.folder / "by-pip"
        requirements = [f"ipykernel=={self.spare.generation()['packages']['ipykernel']}", name]
        plain.download(self.folder / "throw-away", wheels, requirements)
        kernel = Stock.write(self.folder, "by-pip", folder / "bin" / "python")
        self.pause()
        installed = plain.environment(folder, wheels, requirements)
        return {**installed, **kernel.fresh(f"import {name}\n{name}.__name__", f"'{name}'")}


def _and_call(registered: Sample, called: Sample) -> Sample:
    return {**registered, "first call": sum(called.values())}


def _case(name: str, title: str, plain_way: str, samples: dict[str, list[Sample]]) -> Case:
    return Case(name, title, plain_way, Figures.of(samples["ours"]), Figures.of(samples["plain"]))


@contextmanager
def opened(cache: Path, plan: Plan) -> Iterator[Bench]:
    """Everything that is measured, in a folder beside the cache: packages are linked from it, as in real use."""
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=cache.parent) as name, ExitStack() as stack:
        folder = Path(name)
        plain.isolate(folder)
        for part in ("spare", "bare"):
            (folder / part).mkdir()
        spare = stack.enter_context(running(folder / "spare", cache))
        bare = stack.enter_context(running(folder / "bare", cache, pool_size=0))
        yield Bench(folder, plan, spare, bare, [])


def measure(cache: Path, plan: Plan, say: Callable[[str], None]) -> report.Report:
    """Every case, one after the other."""
    load = os.getloadavg()[0]
    say("Starting two services ...")
    with opened(cache, plan) as bench:
        packages = bench.spare.generation()["packages"]
        cases = []
        for part in (bench.warm, bench.clean, bench.register, bench.package):
            say(f"Measuring: {(part.__doc__ or '').rstrip('.').lower()} ...")
            cases += list(part())
        return report.Report.of(cases, packages, bench.spins, load)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write the page if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.first", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few samples and no pip: does it run?")
    parser.add_argument("--json", action="store_true", help="answer as JSON, for programs")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md and its chart")
    parser.add_argument("--cache", type=Path, default=ROOT / ".aigbb" / "cache", help="cache of downloaded packages")
    options = parser.parse_args(arguments)
    if options.quick and options.write:
        parser.error("--quick has too few samples to be written down")
    notes = Console(stderr=True)
    done = measure(options.cache.absolute(), QUICK if options.quick else FULL, notes.print)
    if options.json:
        sys.stdout.write(done.as_json() + "\n")
    else:
        Console().print(done.table())
    if options.write:
        done.write(ROOT / "docs")
        notes.print("Wrote docs/benchmarks.md and docs/benchmarks.svg")


if __name__ == "__main__":
    main()
