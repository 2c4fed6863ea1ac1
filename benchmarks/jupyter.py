"""Our kernelspec in a Jupyter server that knows nothing of us."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import peers
from benchmarks.bench import Bench
from benchmarks.plain import Stock
from benchmarks.rows import Goal, Row, timed_row
from benchmarks.timing import Contender, interleave

STOCK = "same-python"


def kernelspec(bench: Bench) -> Iterator[Row]:
    """A notebook's kernel, from its creation to its first result."""
    if bench.quick:
        return
    ours = bench.spare.generation()["kernel"]
    Stock.write(bench.folder, STOCK, bench.spare.python)
    python = bench.environments.python("server")
    where = {"JUPYTER_PATH": f"{bench.spare.folder}:{bench.folder}"}
    for patched, how, goal in ((False, "as shipped", Goal(at_most=0.35)), (True, "TCP_NODELAY patched", None)):
        with peers.jupyter_server(bench.folder, python, patched=patched, environment=where) as server:
            contenders: dict[str, Contender] = {
                "ours": lambda _, server=server: server.first_result(ours),  # type: ignore[misc]
                "stock": lambda _, server=server: server.first_result(STOCK),  # type: ignore[misc]
            }
            samples = interleave(8, 1, contenders)
        title = f"jupyter_server, {how}: create our kernelspec's kernel, connect, first result"
        against = "the same with the stock kernelspec of the same environment"
        yield timed_row("jupyter", title, against, samples["ours"], samples["stock"], goal)
