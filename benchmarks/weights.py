"""Large outputs, the memory that they take, and the memory of kernels."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from uuid import uuid4

import psutil
from jupyter_client.blocking.client import BlockingKernelClient

from benchmarks import plain
from benchmarks.bench import IMPORTS, Bench
from benchmarks.rows import Goal, Row, timed_row
from benchmarks.service import Service
from benchmarks.timing import Contender, Figures, Sample, Watch, interleave

MEGABYTE = 1_000_000
ONE_PRINT = "print('x' * 10_000_000)"
BELOW_CAP = "print('x' * 1_000_000)"
LINES = "for i in range(100_000): print(i)"
ALL_LINES = "".join(f"{i}\n" for i in range(100_000))
CAP = 1024 * 1024  # AIGBB_MAX_OUTPUT, as it is by default
POLL_SECONDS = 0.001


def output(bench: Bench) -> Iterator[Row]:
    """Code that prints a lot."""
    service = bench.spare
    with service.sessions(1) as [session], bench.stock.running() as reference:
        bench.pause()
        idle = service.process.memory_info().rss
        for code, title, length, most in (
            (ONE_PRINT, "10 MB of stdout in one print", 10_000_001, 1.0),
            (LINES, "100,000 lines of stdout", len(ALL_LINES), 0.8),
        ):
            contenders: dict[str, Contender] = {
                "ours": partial(_printed, service, session, code),
                "plain": partial(_printed_plainly, reference, code, length),
            }
            samples = interleave(bench.times(8), bench.times(1, 0), contenders)
            against = "plain jupyter_client: the same, every character of it"
            yield timed_row("output", title, against, samples["ours"], samples["plain"], Goal(at_most=most))
        yield _lost(service, session)
        for code, title in ((ONE_PRINT, "10 MB in one print"), (LINES, "100,000 lines")):
            work = partial(_printed, service, session, code)
            peaks = [_peak(service, idle, work) for _ in range(bench.times(4))]
            yield _peaks(title, peaks)


def _printed(service: Service, session: str, code: str, _: int = 0) -> Sample:
    watch = Watch()
    service.ask("POST", "/execute", {"code": code, "session": session})
    watch.lap("answer")
    return watch.laps


def _printed_plainly(client: BlockingKernelClient, code: str, length: int, _: int) -> Sample:
    return plain.printed(client, code, length)


def _lost(service: Service, session: str) -> Row:
    """How many characters are missing of what fits, and whether what doesn't is said to be cut."""
    answers = {code: service.ask("POST", "/execute", {"code": code, "session": session}) for code in (BELOW_CAP, LINES)}
    lost = 1_000_001 - len(answers[BELOW_CAP]["output"]) + (answers[LINES]["output"] != ALL_LINES) * len(ALL_LINES)
    cut = service.ask("POST", "/execute", {"code": ONE_PRINT, "session": session})
    if not cut["truncated"] or not 0 < len(cut["output"]) <= CAP + 1000:
        raise RuntimeError(f"10 MB gave {len(cut['output'])} characters, {cut['truncated']=}.")
    title = "lost of 1,000,000 characters in one print and of 100,000 lines, both below the cap"
    return Row("output", title, "", Figures.plain([lost]), None, Goal(own=0), "characters")


def _peaks(title: str, peaks: list[float]) -> Row:
    cap = Figures.plain([CAP / MEGABYTE])
    title = f"the server's peak memory above idle, {title}"
    return Row("output", title, "AIGBB_MAX_OUTPUT, the cap", Figures.plain(peaks), cap, Goal(at_most=4), "MB")


def _peak(service: Service, idle: int, work: Callable[[], Sample]) -> float:
    """Megabytes that the server's resident memory reached while it worked, above what it was before large outputs."""
    over = threading.Event()
    seen = [idle]

    def poll() -> None:
        while not over.wait(POLL_SECONDS):
            seen.append(service.process.memory_info().rss)

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        work()
    finally:
        over.set()
        thread.join()
    return (max(seen) - idle) / MEGABYTE


def memory(bench: Bench) -> Iterator[Row]:
    """Kernels that have their libraries loaded and wait."""
    count = bench.times(4)
    with ExitStack() as stack:
        others = []
        for _ in range(count):
            pid, client = stack.enter_context(bench.stock.process())
            plain.round_trip(client, IMPORTS)
            others.append(pid)
        ours = [_pid(bench.spare, session) for session in stack.enter_context(bench.spare.sessions(count))]
        bench.pause()
        for kind, goal in (("USS", Goal(at_most=0.2)), ("PSS", None)):
            mine, theirs = (Figures.plain([_memory(pid, kind) for pid in pids]) for pids in (ours, others))
            title = f"memory ({kind}) of an idle kernel with numpy, pandas and pyplot"
            yield Row("memory", title, "the same of a cold stock kernel", mine, theirs, goal, "MB")


def _pid(service: Service, session: str) -> int:
    """The kernel's process: it names itself, for in its sandbox it has another number than here."""
    mark = uuid4().hex[:12]
    service.execute(f"open('/proc/self/comm', 'w').write({mark!r})\n{IMPORTS}", "2", session)
    found = (process for process in service.process.children(recursive=True) if process.name() == mark)
    return int(next(found).pid)


def _memory(pid: int, kind: str) -> float:
    info = psutil.Process(pid).memory_full_info()
    used: int = info.uss if kind == "USS" else info.pss
    return used / MEGABYTE
