"""`make nightly`: what `make test` leaves out because it takes long, one stage after the other, and a table at the end.

A stage that fails does not keep the others from running. What a stage printed is in `nightly/`, a file for each.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

ROOT = Path(__file__).parents[1]
LOGS = ROOT / "nightly"
PYTEST = [sys.executable, "-m", "pytest", "-n", "3", "--dist", "loadfile", "--no-loadscope-reorder", "-q"]
EVERY = {"EVERY_STEP": "1"}
# Minor versions of Python that the product supports.
MINORS = range(11, 15)
FAILURE = re.compile(r"^(?:FAILED|ERROR) .*", re.MULTILINE)


@dataclass(frozen=True)
class Stage:
    """One command. times: how often it is run, one after the other, whatever comes of each. loops: how many processes
    that only use up the processors run beside it."""

    name: str
    argv: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    times: int = 1
    loops: int = 0


@dataclass(frozen=True)
class StageResult:
    """How a stage went. failures: lines that say what failed; empty if nothing did."""

    name: str
    seconds: float
    failures: Sequence[str]
    summary: str


def stages() -> Iterator[Stage]:
    """Yield all stages, the shortest first."""
    yield Stage("200 rounds of two writers and the clean-up", [*PYTEST, "tests/test_reconciler.py"], EVERY)
    yield Stage("every point at which a service is killed", [*PYTEST, "tests/test_crash.py"], EVERY)
    yield Stage("every extreme body at every route", [*PYTEST, "tests/test_extreme.py"], EVERY)
    yield Stage("tests that are marked nightly", [*PYTEST, "-m", "nightly"])
    yield Stage("the table of faults, ten times", [*PYTEST, "-m", "", "tests/test_faults.py"], times=10)
    yield Stage("all tests in random order, beside two busy loops", [*PYTEST, "-p", "randomly"], times=3, loops=2)
    yield Stage("ten thousand operations", [sys.executable, "-m", "benchmarks.soak"])
    yield Stage("fine-tuning", ["make", "test-finetune"])
    for python in others():
        venv = f".venv-{python.name}"
        yield Stage(f"all of make test with {python.name}", ["make", f"VENV={venv}", f"PYTHON={python}", "test"])


def others() -> Iterator[Path]:
    """Yield the interpreters of this machine that are supported, and not the one that runs this."""
    for minor in MINORS:
        found = shutil.which(f"python3.{minor}")
        if found and minor != sys.version_info.minor:
            yield Path(found)


def run(stage: Stage, console: Console) -> StageResult:
    """Run a stage to its end."""
    log = LOGS / f"{re.sub(r'[^a-z0-9]+', '-', stage.name.lower())}.log"
    console.print(f"[bold]{escape(stage.name)}[/]  [dim]{escape(' '.join(stage.argv))}[/]")
    began, codes = time.monotonic(), []
    with log.open("w") as file, busy(stage.loops):
        for _ in range(stage.times):
            env = {**os.environ, **stage.environment}
            codes.append(
                subprocess.run(stage.argv, cwd=ROOT, env=env, stdout=file, stderr=subprocess.STDOUT).returncode
            )
    text = log.read_text(errors="replace")
    failures = list(dict.fromkeys(FAILURE.findall(text)))
    if any(codes) and not failures:
        failures = [f"exit code {next(filter(None, codes))}, see {log.relative_to(ROOT)}"]
    lines = [line for line in text.splitlines() if line.strip()]
    return StageResult(stage.name, time.monotonic() - began, failures if any(codes) else [], lines[-1] if lines else "")


@contextmanager
def busy(loops: int) -> Iterator[None]:
    """Keep so many processors busy meanwhile."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
    try:
        yield
    finally:
        for loop in running:
            loop.kill()
            loop.wait()


def print_results(results: Sequence[StageResult], console: Console) -> None:
    """Print one table of what ran, how long, and what failed."""
    table = Table(title="make nightly")
    for column in ("stage", "time", "result"):
        table.add_column(column, overflow="fold")
    for result in results:
        minutes, seconds = divmod(round(result.seconds), 60)
        said = "\n".join(result.failures) or result.summary
        style = "red" if result.failures else "green"
        table.add_row(escape(result.name), f"{minutes}:{seconds:02}", f"[{style}]{escape(said)}[/]")
    console.print(table)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stages whose name contains a word, or all. Returns 1 if one failed."""
    parser = argparse.ArgumentParser(prog="make nightly", description=__doc__)
    parser.add_argument("--list", action="store_true", help="print the stages, and run none")
    parser.add_argument("words", nargs="*", help='run the stages whose name contains one of these, such as "crash"')
    options, console = parser.parse_args(argv), Console()
    chosen = [s for s in stages() if not options.words or any(word in s.name for word in options.words)]
    if options.list:
        for stage in chosen:
            console.print(f"{escape(stage.name)}  [dim]{escape(' '.join(stage.argv))}[/]")
        return 0
    LOGS.mkdir(exist_ok=True)
    results = [run(stage, console) for stage in chosen]
    print_results(results, console)
    return int(any(result.failures for result in results) or not results)


if __name__ == "__main__":
    sys.exit(main())
