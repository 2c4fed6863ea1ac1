"""What one client waits for: round trips, clean kernels, the first text of stdout."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

from benchmarks import floor, peers, plain
from benchmarks.bench import IMPORTS, Bench
from benchmarks.peers import http_sample, websocket_sample
from benchmarks.rows import Goal, Row, timed_row
from benchmarks.timing import Contender, Figures, Sample, interleave
from benchmarks.wire import Http
from kernels.machine import examine

ROUND_TRIP = "plain jupyter_client: a round trip of `1+1` to a stock kernel that runs"
FRESH = "a fresh KernelManager per call: start_new_kernel, execute, shutdown"
CODE = {"code": "1+1"}
EVERY_SECOND = 20.0
PATIENCE = 10.0  # seconds, for peers that answer within milliseconds
SLEEPING = "import time\nprint('x')\ntime.sleep(0.3)"

AGAINST = {
    "plain": ROUND_TRIP,
    "obvious": "the obvious design: FastAPI, one kernel, AsyncKernelClient",
    "gateway": "kernel_gateway, notebook-http, one kernel",
    "gateway_patched": "kernel_gateway, websocket, TCP_NODELAY patched",
    "gateway_shipped": "kernel_gateway, websocket, as shipped",
    "server_patched": "jupyter_server with jupyter_kernel_client, TCP_NODELAY patched",
    "server_shipped": "jupyter_server with jupyter_kernel_client, as shipped",
}


def warm(bench: Bench) -> Iterator[Row]:
    """A kernel that runs already."""
    bench.spare.register("def bench(x: int) -> int:\n    return x + 1\n", [], new_generation=False)
    with ExitStack() as stack:
        execute, call = _ours(bench, stack)
        reference = stack.enter_context(bench.stock.running())
        quick: dict[str, Contender] = {"execute": execute, "call": call}
        quick["plain"] = lambda _: plain.timed(reference, "1+1", "2")
        quick["floor"] = stack.enter_context(floor.running()).once
        slow: dict[str, Contender] = {"execute": execute}
        if not bench.quick:
            quick |= _quick_peers(bench, stack)
            slow |= _slow_peers(bench, stack)
        bench.pause()
        samples = interleave(bench.times(300, 5), bench.times(20), quick)
        shipped = interleave(bench.times(60), bench.times(5), slow)
    goals = {"plain": Goal(at_most=0.35), "gateway": Goal(at_most=0.17)}
    title = "`1+1` in a session"
    for found in (samples, shipped):
        for name in [name for name in AGAINST if name in found]:
            yield timed_row("warm", title, AGAINST[name], found["execute"], found[name], goals.get(name))
    typed = "a typed call in a session"
    yield timed_row("call", typed, ROUND_TRIP, samples["call"], samples["plain"], Goal(at_most=0.25))
    least = "the floor: an echo, and signed messages with a kernel that does nothing"
    for name, what in (("execute", title), ("call", typed)):
        yield timed_row("floor", what, least, samples[name], samples["floor"])


def _ours(bench: Bench, stack: ExitStack) -> tuple[Contender, Contender]:
    """An execution and a typed call, each in a session of its own."""
    one, other = stack.enter_context(bench.spare.sessions(2))
    return (
        lambda _: bench.spare.execute("1+1", "2", one),
        lambda number: bench.spare.call("bench", {"x": number}, number + 1, other),
    )


def _quick_peers(bench: Bench, stack: ExitStack) -> dict[str, Contender]:
    """Those that answer within a few milliseconds."""
    python, folder, enter = bench.environments.python, bench.folder, stack.enter_context
    obvious = Http(enter(peers.obvious(folder, python("obvious"), 1)), seconds=PATIENCE)
    notebook = Http(enter(peers.gateway_http(folder, python("gateway"), 1)), seconds=PATIENCE)
    return {
        "obvious": lambda _: http_sample(obvious, "POST", "/execute", CODE, b'"2"'),
        "gateway": lambda _: http_sample(notebook, "GET", "/two", None, b"2"),
        **_websockets(bench, stack, patched=True),
    }


def _slow_peers(bench: Bench, stack: ExitStack) -> dict[str, Contender]:
    """Those that wait for Nagle's algorithm."""
    return _websockets(bench, stack, patched=False)


def _websockets(bench: Bench, stack: ExitStack, *, patched: bool) -> dict[str, Contender]:
    python, folder, enter = bench.environments.python, bench.folder, stack.enter_context
    gateway = enter(peers.gateway(folder, python("gateway"), patched=patched))
    channels = gateway.channels(gateway.create())
    server = enter(peers.jupyter_server(folder, python("server"), patched=patched))
    name = "patched" if patched else "shipped"
    client = enter(peers.kernel_client(folder / f"client-{name}.log", python("server"), server))
    return {f"gateway_{name}": lambda _: websocket_sample(channels), f"server_{name}": client.sample}


def clean(bench: Bench) -> Iterator[Row]:
    """A kernel that nobody used before, for every execution, at a steady rate."""
    ours: list[float] = []
    failed = 0
    fresh: list[Sample] = []
    warm_ones: list[Sample] = []
    with bench.stock.running() as reference:
        for _ in range(bench.times(4)):
            bench.pause()
            load = bench.spare.load("1+1", [None], clients=16, seconds=bench.seconds(3), rate=EVERY_SECOND)
            happened = load.run()
            ours += happened.milliseconds
            failed += happened.refused
            if not ours:
                raise RuntimeError("Every request was refused.")
            bench.pause()
            once: dict[str, Contender] = {"plain": lambda _: plain.timed(reference, "1+1", "2")}
            warm_ones += interleave(bench.times(50, 3), 5, once)["plain"]
            fresh += interleave(bench.times(3), 0, {"fresh": lambda _: bench.stock.fresh("1+1", "2")})["fresh"]
    title = f"`1+1` on a clean kernel each, {EVERY_SECOND:.0f} requests a second"
    for against, samples, most in ((ROUND_TRIP, warm_ones, 1.0), (FRESH, fresh, 0.01)):
        goal = Goal(at_most=most)
        yield Row("clean", title, against, Figures.plain(ours), Figures.of(samples), goal, failed=failed)


def hardened(bench: Bench) -> Iterator[Row]:
    """Clean kernels that are confined as far as they can be, where this machine can."""
    if bench.quick or any(not part.ok for part in asyncio.run(examine())):
        return  # a service of its own takes too long for a look whether all runs
    hard, usual = bench.hardened, bench.spare
    contenders: dict[str, Contender] = {
        "hardened": lambda _: hard.execute("1+1", "2"),
        "default": lambda _: usual.execute("1+1", "2"),
    }
    samples = interleave(bench.times(40, 2), bench.times(3), contenders, bench.pause)
    title = "`1+1` on a clean kernel, hardened (AIGBB_SANDBOX=required)"
    against = "the same in the default profile"
    yield timed_row("hardened", title, against, samples["hardened"], samples["default"], Goal(at_most=1.3))


def cold(bench: Bench) -> Iterator[Row]:
    """A kernel that has to be started, because no spare is there."""
    for code, what, most in (("1+1", "`1+1`", 0.12), (IMPORTS, "numpy, pandas, pyplot", 0.06)):
        contenders: dict[str, Contender] = {
            "ours": lambda _, code=code: bench.bare.execute(code, "2"),  # type: ignore[misc]
            "cold": lambda _, code=code: bench.stock.cold(code),  # type: ignore[misc]
            "fresh": partial(_fresh, bench, code),
        }
        samples = interleave(bench.times(8), bench.times(1, 0), contenders, bench.pause)
        title = f"{what} on a clean kernel, no spare is ready"
        against = "a cold stock ipykernel: from its start to the first reply"
        yield timed_row("cold", title, against, samples["ours"], samples["cold"], Goal(at_most=most))
        yield timed_row("cold", title, FRESH, samples["ours"], samples["fresh"])


def _fresh(bench: Bench, code: str, _: int) -> Sample:
    return bench.stock.fresh(code, "2")


def stream(bench: Bench) -> Iterator[Row]:
    """The first text of stdout, while the code goes on."""
    with bench.spare.sessions(1) as [session], bench.stock.running() as reference:
        bench.pause()
        contenders: dict[str, Contender] = {
            "ours": lambda _: bench.spare.first_output(SLEEPING, session),
            "plain": lambda _: plain.first_output(reference, SLEEPING),
        }
        samples = interleave(bench.times(15), bench.times(1, 0), contenders)
    against = "plain jupyter_client: until the first stream message of a stock kernel"
    goal = Goal(at_most=0.1)
    yield timed_row("stream", "the first text of stdout, streamed", against, samples["ours"], samples["plain"], goal)
