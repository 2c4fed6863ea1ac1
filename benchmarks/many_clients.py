"""What many clients get at once: requests a second, and how long the slowest wait."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace

from benchmarks import peers
from benchmarks.bench import IMPORTS, Bench
from benchmarks.load import Happened, Load, Target
from benchmarks.peers import Jupyter
from benchmarks.rows import Goal, Row
from benchmarks.timing import Figures, percentile

CLIENTS = (8, 32)
KERNELS = 2
WINDOWS = 3
SECONDS = 1.4
EXECUTE = Target('"result":"2"', body={"code": "1+1"})
TWO = Target("2", method="GET", path="/two")


@dataclass(frozen=True, slots=True)
class Point:
    """A contender that load can be put on; who belongs to which peer."""

    peer: str
    title: str
    load: Load

    def run(self, clients: int, seconds: float) -> Happened:
        """So many clients, for so long."""
        return replace(self.load, clients=clients, seconds=seconds).run()


def throughput(bench: Bench) -> Iterator[Row]:
    """Many clients at once."""
    with ExitStack() as stack:
        points = list(_points(bench, stack))
        bench.pause()
        rates = _measured(points, bench.times(WINDOWS), bench.seconds(SECONDS))
        for clients in CLIENTS:
            yield from goal_rows(points, {name: found for (name, at), found in rates.items() if at == clients}, clients)
        [ours] = [point for point in points if point.peer == "ours"]
        highest = max(percentile(found, 0.5) for (name, _), found in rates.items() if name == ours.title)
        yield _tail(ours.load, highest / 2, bench.times(4), bench.seconds(3))


def _points(bench: Bench, stack: ExitStack) -> Iterator[Point]:
    enter, python, folder = stack.enter_context, bench.environments.python, bench.folder
    sessions = enter(bench.spare.sessions(KERNELS))
    yield Point("ours", "ours", bench.spare.load("1+1", sessions, clients=1, seconds=1))
    if bench.quick:
        return
    url = enter(peers.obvious(folder, python("obvious"), KERNELS))
    yield Point("obvious", f"the obvious design, kernels: {KERNELS}", Load(url, {}, [EXECUTE], 1, 1))
    for kernels in (1, 2, 4):
        url = enter(peers.gateway_http(folder, python("gateway"), kernels))
        yield Point("gateway", f"kernel_gateway, notebook-http, kernels: {kernels}", Load(url, {}, [TWO], 1, 1))
    patched = enter(peers.gateway(folder, python("gateway"), patched=True))
    yield _websockets(patched, 4, "TCP_NODELAY patched, rate limit off")
    shipped = enter(peers.gateway(folder, python("gateway"), patched=False))
    yield _websockets(shipped, max(CLIENTS), "as shipped")


def _websockets(gateway: Jupyter, kernels: int, how: str) -> Point:
    """Each client has a websocket of its own; with as many kernels as clients, it has a kernel too."""
    ids = [gateway.create() for _ in range(kernels)]
    title = f"kernel_gateway, websocket, {how}, kernels: {kernels}"
    return Point("websocket", title, gateway.load(ids, clients=1, seconds=1))


def _measured(points: list[Point], windows: int, seconds: float) -> Mapping[tuple[str, int], list[float]]:
    """Answers a second in each window; all contenders take turns."""
    rates: dict[tuple[str, int], list[float]] = defaultdict(list)
    for _ in range(windows):
        for clients in CLIENTS:
            for point in points:
                happened = point.run(clients, seconds)
                if happened.refused:
                    raise RuntimeError(f"{point.title} refused {happened.refused} requests of {clients} clients.")
                rates[point.title, clients].append(happened.rate)
    return rates


def goal_rows(points: list[Point], rates: Mapping[str, list[float]], clients: int) -> Iterator[Row]:
    """Goals are held against the best of a peer's numbers of kernels; the others, and websockets, are shown as well."""
    goals = {"obvious": Goal(at_least=3), "gateway": Goal(at_least=6)}
    title = f"requests a second, {clients} clients, warm"
    ours = Figures.plain(rates["ours"])
    best = {peer: _best([p for p in points if p.peer == peer], rates) for peer in {p.peer for p in points} - {"ours"}}
    for point in [point for point in points if point.peer != "ours"]:
        goal = goals.get(point.peer) if best[point.peer] is point else None
        yield Row("throughput", title, point.title, ours, Figures.plain(rates[point.title]), goal, "/s")
    if not best:
        yield Row("throughput", title, "nothing, in a quick run", ours, None, None, "/s")


def _best(points: list[Point], rates: Mapping[str, list[float]]) -> Point:
    return max(points, key=lambda point: percentile(rates[point.title], 0.5))


def _tail(load: Load, rate: float, windows: int, seconds: float) -> Row:
    """The slowest of a hundred beside the middle one, at an even rate."""
    runs = [replace(load, clients=max(CLIENTS), seconds=seconds, rate=rate).run() for _ in range(windows)]
    slow, middle = (Figures.plain([percentile(r.milliseconds, share) for r in runs]) for share in (0.99, 0.5))
    title = f"p99 at half of the highest rate, {rate:,.0f} requests a second"
    return Row(
        "tail", title, "p50 of the same requests", slow, middle, Goal(at_most=5), failed=sum(r.refused for r in runs)
    )


def sustained(bench: Bench) -> Iterator[Row]:
    """Clean kernels with numpy, pandas and pyplot, one after the other without a rest."""
    ours: list[float] = []
    cold: dict[int, list[float]] = defaultdict(list)
    for _ in range(bench.times(3)):
        bench.pause()
        happened = bench.spare.load(IMPORTS, [None], clients=4, seconds=max(1.5, bench.seconds(4))).run()
        ours.append(happened.rate)
        bench.pause()
        for threads in (2,) if bench.quick else (1, 2, 4):
            cold[threads].append(bench.stock.starts(IMPORTS, "2", threads, 1 if threads == 4 else 2))
    threads, best = max(cold.items(), key=lambda pair: percentile(pair[1], 0.5))
    title = "clean executions a second with numpy, pandas and pyplot, 4 clients"
    against = f"cold starts a second: start_new_kernel, execute, shutdown(now=True); {threads} threads, best of 1, 2, 4"
    goal = Goal(at_least=8)
    yield Row("sustained", title, against, Figures.plain(ours), Figures.plain(best), goal, "/s")
