"""What registering functions costs: alone, beside many others, and with a package that no environment has yet."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import plain
from benchmarks.bench import LIBRARIES, Bench
from benchmarks.plain import Stock
from benchmarks.rows import Goal, Row, timed_row
from benchmarks.service import Service
from benchmarks.timing import Sample, interleave

# Small, pure Python, without dependencies of their own, and not in an environment by default.
PACKAGES = ("inflection", "toolz", "humanize", "cachetools", "sortedcontainers")
FEW = 5
AT_ONCE = 50
BY_PIP = "python -m venv, pip install the default packages from wheels on this disk, start_new_kernel, execute"


def register(bench: Bench) -> Iterator[Row]:
    """From a new version of a function to its first result, with nothing else registered, and beside many functions."""
    few, many, count = bench.spare, bench.many, bench.times(500, 20)
    for service, wanted in ((few, FEW), (many, count)):
        _fill(service, wanted)
    turns = {
        "many": lambda n: _register(many, n),
        "few": lambda n: _register(few, n),
        "plain": lambda n: _define(bench, n),
    }
    samples = interleave(bench.times(10), bench.times(1, 0), turns, bench.pause)
    title = "register a function without a new package, then call it on a clean kernel"
    other = [_by_hand(bench)] if not bench.quick else samples["plain"]
    goal = Goal(own=150.0, at_most=0.05)
    if not bench.quick:
        yield timed_row("register", title, BY_PIP, samples["few"], other, goal)
    way = "start_new_kernel, execute the function's source and the call, shutdown"
    yield timed_row("register", title, way, samples["few"], samples["plain"])
    title = f"register a function beside {count} others, then call it"
    yield timed_row("many", title, f"the same beside {FEW}", samples["many"], samples["few"], Goal(at_most=1.5))
    executions = {"many": lambda _: many.execute("1+1", "2"), "few": lambda _: few.execute("1+1", "2")}
    executed = interleave(bench.times(10), bench.times(1, 0), executions, bench.pause)
    title = f"`1+1` on a clean kernel with {count} functions"
    yield timed_row("many", title, f"the same with {FEW}", executed["many"], executed["few"], Goal(at_most=1.5))


def package(bench: Bench) -> Iterator[Row]:
    """From a function with a package that no environment has yet to its first result."""
    if bench.quick:
        return
    everything = "".join(f"import {name}\n" for name in PACKAGES)
    body = {"source": f"{everything}\ndef all_of_them() -> None: ...\n", "packages": list(PACKAGES)}
    bench.bare.ask("POST", "/register", body)  # another home: only the cache of wheels is shared
    ours = []
    for name in PACKAGES:
        bench.pause()
        ours.append(_register_package(bench.spare, name))
    title = "register a function with a new small package, then call it on a clean kernel"
    way = "python -m venv, pip install ipykernel and the package, start_new_kernel, execute, shutdown"
    yield timed_row("package", title, way, ours, [_install(bench, PACKAGES[0])], Goal(own=1500.0))


def _register(service: Service, number: int) -> Sample:
    source, result = _newest(number)
    registered = service.register(source, [], new_generation=False)
    return {**registered, "first call": sum(service.execute("newest(1)", result).values())}


def _define(bench: Bench, number: int) -> Sample:
    source, result = _newest(number)
    return bench.stock.fresh(f"{source}\nnewest(1)", result)


def _newest(number: int) -> tuple[str, str]:
    """A function that no version before was like, and what it gives for 1."""
    return f'def newest(x: int) -> int:\n    """Add {number}."""\n    return x + {number}\n', str(1 + number)


def _register_package(service: Service, name: str) -> Sample:
    source = f"import {name}\n\ndef uses_{name}() -> str:\n    return {name}.__name__\n"
    registered = service.register(source, [name], new_generation=True)
    return {**registered, "first call": sum(service.execute(f"uses_{name}()", f"'{name}'").values())}


def _by_hand(bench: Bench) -> Sample:
    """What a person does instead: a new environment with the packages that our kernels have."""
    packages = bench.spare.generation()["packages"]
    wanted = [f"{name}=={packages[name]}" for name in ("ipykernel", "pydantic", *LIBRARIES)]
    return _environment(bench, "by-hand", wanted, "1+1", "2")


def _install(bench: Bench, name: str) -> Sample:
    wanted = [f"ipykernel=={bench.spare.generation()['packages']['ipykernel']}", name]
    return _environment(bench, "by-pip", wanted, f"import {name}\n{name}.__name__", f"'{name}'")


def _environment(bench: Bench, name: str, wanted: list[str], code: str, expected: str) -> Sample:
    """Built from wheels that were fetched before, untimed; then a kernel in it."""
    folder = bench.folder / name
    plain.download(folder / "throw-away", folder / "wheels", wanted)
    bench.pause()
    built = plain.environment(folder / "venv", folder / "wheels", wanted)
    kernel = Stock.write(bench.folder, name, folder / "venv" / "bin" / "python")
    return {**built, **kernel.fresh(code, expected)}


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
