"""`make bench`: this checkout beside what one would use instead."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from benchmarks import chat, functions, jupyter, many_clients, one_client, weights
from benchmarks.bench import Bench, opened
from benchmarks.peers import PINS
from benchmarks.report import Report
from benchmarks.rows import Row
from benchmarks.service import ROOT

NOTES = Path(__file__).parent / "notes.md"
PACKAGES: tuple[str, ...] = ("jupyter_client", "ipykernel", "pyzmq", "fastapi", "uvicorn", "jupyter_server", "tornado")
PACKAGES += ("jupyter_kernel_gateway", "jupyter_kernel_client", "numpy", "pandas", "matplotlib")

CASES: Mapping[str, Callable[[Bench], Iterator[Row]]] = {
    "warm": one_client.warm,
    "clean": one_client.clean,
    "hardened": one_client.hardened,
    "sustained": many_clients.sustained,
    "memory": weights.memory,
    "throughput": many_clients.throughput,
    "cold": one_client.cold,
    "stream": one_client.stream,
    "output": weights.output,
    "jupyter": jupyter.kernelspec,
    "register": functions.register,
    "package": functions.package,
    "chat": chat.chat,
}


def measure(bench: Bench, names: Sequence[str], say: Callable[[str], None]) -> Report:
    """The cases, one after the other."""
    load = os.getloadavg()[0]
    rows: list[Row] = []
    for name in names:
        say(f"Measuring {name}: {(CASES[name].__doc__ or '').rstrip('.').lower()} ...")
        begin = time.monotonic()
        rows += CASES[name](bench)
        say(f"  {time.monotonic() - begin:.0f} s")
    return Report.of(rows, _versions(bench), bench.spins, load)


def _versions(bench: Bench) -> dict[str, dict[str, str]]:
    """What our kernels have, and the peers."""
    found = {"our kernels": bench.spare.generation()["packages"]}
    if not bench.quick:
        found |= {name: bench.environments.versions(name, bench.more(name)) for name in PINS}
    return {whose: {name: has[name] for name in PACKAGES if name in has} for whose, has in found.items()}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line. Ends the program where it makes no sense."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few samples and no peers to download: does it run?")
    parser.add_argument("--only", action="append", choices=CASES, metavar="CASE", help=f"one of {', '.join(CASES)}")
    parser.add_argument("--json", action="store_true", help="answer as JSON, for programs")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md and its chart")
    parser.add_argument("--cache", type=Path, default=ROOT / ".aigbb" / "cache", help="cache of downloaded packages")
    options = parser.parse_args(arguments)
    if options.write and options.quick:
        parser.error("--quick has too few samples to be written down")
    if options.write and options.only:
        parser.error("--only leaves out what the page has to say")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write the page if asked to."""
    options, notes = parse(arguments), Console(stderr=True)
    with opened(options.cache.absolute(), quick=options.quick) as bench:
        done = measure(bench, [name for name in CASES if name in (options.only or CASES)], notes.print)
    if options.json:
        sys.stdout.write(done.as_json() + "\n")
    else:
        wide = None if sys.stdout.isatty() else 160
        Console(width=wide).print(done.table())
    if options.write:
        text = NOTES.read_text(encoding="utf-8") if NOTES.exists() else ""
        replace(done, notes=text).write(ROOT / "docs")
        notes.print("Wrote docs/benchmarks.md and docs/benchmarks.svg")


if __name__ == "__main__":
    main()
