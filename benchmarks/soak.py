"""`make soak`: mixed work for as long as it takes, then a count of what is lost, wrong or left.

Several clients do at random what callers do: run code, call functions, use sessions, register, fail in every way,
leave in the middle, start executions and come back for them. Each answer is held against what it must be. At the end
the service is at rest, and holds what it held before.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.census import Census, Place
from benchmarks.service import ROOT, running

PAGE, BEGIN, END = ROOT / "docs" / "reliability.md", "<!-- soak -->", "<!-- /soak -->"
CLIENTS = 6
KEEP = 3  # environments
PACKAGES = ("iniconfig==2.0.0", "iniconfig==2.1.0", "iniconfig>=2")
# Refusals of a service that is busy are answers too; what was asked is asked again.
BUSY = (429, 503)

# How code fails, and the statuses that tell so.
FAULTS: Mapping[str, tuple[str, frozenset[str]]] = {
    "raises": ("1/0", frozenset({"error"})),
    "exits": ("import os; os._exit(3)", frozenset({"died"})),
    "is killed": ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", frozenset({"died"})),
    "aborts": ("import os; os.abort()", frozenset({"died"})),
    "never ends": ("while True: pass", frozenset({"timeout"})),
    "ignores interrupts": (
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass",
        frozenset({"timeout"}),
    ),
    "waits for ever": ("import asyncio; await asyncio.Event().wait()", frozenset({"timeout"})),
    "prints for ever": ("while True: print('x' * 1000)", frozenset({"timeout", "output_limit"})),
    "leaves a child": (
        "import subprocess; subprocess.Popen(['sleep', '600'], start_new_session=True); print('left')",
        frozenset({"ok"}),
    ),
    "leaves a thread": (
        "import threading, time; threading.Thread(target=time.sleep, args=(600,)).start()",
        frozenset({"ok"}),
    ),
    "leaves files": ("import tempfile; tempfile.mkdtemp(); open('left', 'w').write('x' * 1000)", frozenset({"ok"})),
    "takes the builtins": (
        "import builtins; builtins.len = None; builtins.print = None",
        frozenset({"ok", "died", "error", "timeout"}),
    ),
}


class Wrong(Exception):
    """An answer that is not what it must be."""


@dataclass
class Tally:
    """What was asked, and what came of each."""

    done: Counter[tuple[str, str]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    asked: int = 0

    @property
    def answered(self) -> int:
        """How many operations came to something."""
        return sum(self.done.values())


@dataclass(frozen=True)
class Outcome:
    """A soak's end."""

    operations: int
    seconds: float
    tally: Tally
    before: Census
    after: Census
    peak: float

    @property
    def faults(self) -> list[str]:
        """What is lost, wrong or left; empty if all is well."""
        lost = [f"{self.tally.asked - self.tally.answered} operations came to nothing"]
        return [
            *(lost if self.tally.asked != self.tally.answered else []),
            *self.tally.wrong[:20],
            *self.after.leaks(self.before, KEEP),
        ]

    def page(self) -> str:
        """Two tables, in Markdown."""
        kinds = sorted({kind for kind, _ in self.tally.done})
        lines = [
            f"{self.operations:,} operations by {CLIENTS} clients in {self.seconds:.0f} s; "
            f"{len(self.tally.wrong)} wrong answers, {self.tally.asked - self.tally.answered} lost; "
            f"the service's memory was {self.peak:.0f} MiB at most.",
            "",
            "| operation | came to |",
            "|---|---|",
        ]
        for kind in kinds:
            ends = sorted((end, n) for (k, end), n in self.tally.done.items() if k == kind)
            lines.append(f"| {kind} | {', '.join(f'{end} {n:,}' for end, n in ends)} |")
        lines += ["", "| at rest | before | after |", "|---|---|---|"]
        lines += [f"| {name} | {old:g} | {new:g} |" for name, (old, new) in self.after.rows(self.before).items()]
        return "\n".join(lines)


class Client:
    """One of those who ask. It has a session of its own, and knows what must be in it."""

    def __init__(self, number: int, http: httpx2.AsyncClient, tally: Tally, seed: int) -> None:
        self._number = number
        self._http = http
        self._tally = tally
        self._random = random.Random(seed * 1000 + number)
        self._session = f"soak-{number}"
        self._count: int | None = None  # of the session's variable; None while it has none
        self._version = 0
        self._packages = 0
        self._acts: list[tuple[str, int, Callable[[], Awaitable[str]]]] = [
            ("run code", 30, self._run),
            ("call a function", 24, self._call),
            ("use a session", 16, self._use_session),
            ("restart a session", 1, self._restart),
            ("fail", 8, self._fail),
            ("fail in a session", 3, self._fail_in_session),
            ("leave", 5, self._leave),
            ("follow a stream", 4, self._stream),
            ("come back later", 4, self._later),
            ("ask nonsense", 4, self._nonsense),
            ("register", 2, self._register),
        ]

    async def work(self, left: list[int]) -> None:
        """Until no operation is left."""
        names = [name for name, _, _ in self._acts]
        weights = [weight for _, weight, _ in self._acts]
        acts = {name: act for name, _, act in self._acts}
        while left:
            left.pop()
            [name] = self._random.choices(names, weights)
            self._tally.asked += 1
            try:
                end = await acts[name]()
            except Wrong as wrong:
                self._tally.wrong.append(f"{name}: {wrong}")
                self._count, end = None, "wrong"
            self._tally.done[name, end] += 1

    # -- what callers do

    async def _run(self) -> str:
        number = self._random.randrange(10**6)
        answer = await self._post("/execute", {"code": f"print({number})\n{number} * 2"})
        _must(answer["output"].strip() == str(number) and answer["result"] == str(number * 2), answer)
        return "ok"

    async def _call(self) -> str:
        text = " ".join(self._random.choices(["a", "b", "c"], k=self._random.randint(1, 30)))
        answer = await self._post("/functions/word_count/call", {"text": text})
        _must(sum(answer["result"].values()) == len(text.split()), answer)
        return "ok"

    async def _use_session(self) -> str:
        if self._count is None:
            await self._open()
        answer = await self._post("/execute", {"code": "count += 1\ncount", "session": self._session})
        assert self._count is not None
        self._count += 1
        _must(answer["result"] == str(self._count), answer)
        return "ok"

    async def _open(self) -> None:
        answer = await self._http.post("/sessions", json={"id": self._session})
        _must(answer.status_code in (201, 409), answer.text)
        self._count = 0
        await self._post("/execute", {"code": "count = 0", "session": self._session})

    async def _restart(self) -> str:
        if self._count is None:
            return "none open"
        answer = await self._http.post(f"/sessions/{self._session}/restart")
        _must(answer.status_code == 200, answer.text)
        self._count = 0
        await self._post("/execute", {"code": "count = 0", "session": self._session})
        return "ok"

    async def _fail(self) -> str:
        name = self._random.choice(list(FAULTS))
        code, ends = FAULTS[name]
        answer = await self._post("/execute", {"code": code, "timeout": _patience(ends)})
        _must(_end(answer) & ends, {"fault": name, **answer})
        return str(answer["status"])

    async def _fail_in_session(self) -> str:
        if self._count is None:
            await self._open()
        name = self._random.choice([n for n in FAULTS if not n.startswith(("takes", "leaves"))])
        code, ends = FAULTS[name]
        answer = await self._post("/execute", {"code": code, "timeout": _patience(ends), "session": self._session})
        _must(_end(answer) & ends, {"fault": name, **answer})
        after = await self._post("/execute", {"code": "count", "session": self._session})
        if answer["kernel_lost"] or after["kernel_lost"]:
            _must(after["status"] == "error", after)  # no variable, and it is said so
            await self._post("/execute", {"code": "count = 0", "session": self._session})
            self._count = 0
            return "lost and told"
        _must(after["result"] == str(self._count), {"fault": name, "expected": self._count, **after})
        return "kept"

    async def _leave(self) -> str:
        """Go before the answer comes."""
        headers = {"Accept": "text/event-stream"} if self._random.random() < 0.5 else {}
        body = {"code": "import time; time.sleep(20)", "timeout": 30}
        try:
            async with asyncio.timeout(self._random.uniform(0.0, 0.3)):
                await self._http.post("/execute", json=body, headers=headers)
        except TimeoutError:
            return "gone"
        return "refused"

    async def _stream(self) -> str:
        body = {"code": "for i in range(20): print(i, flush=True)"}
        answer = await self._http.post("/execute", json=body, headers={"Accept": "text/event-stream"})
        if answer.status_code in BUSY:
            return "refused"
        events = [line for line in answer.text.splitlines() if line.startswith("event: ")]
        if events[-1] == "event: problem":
            _must("pool_exhausted" in answer.text, answer.text)
            return "refused"
        _must(events[-1] == "event: done" and '"ok"' in answer.text, answer.text)
        return "ok"

    async def _later(self) -> str:
        """Have it run, go, and come back."""
        number, slow = self._random.randrange(10**6), self._random.random() < 0.3
        code = f"import time; time.sleep({20 if slow else 0.05})\n{number} * 3"
        begun = await self._http.post("/execute", json={"code": code}, headers={"Prefer": "respond-async"})
        if begun.status_code in BUSY:
            return "refused"
        _must(begun.status_code == 202, begun.text)
        where = begun.headers["location"]
        if slow:
            answer = await self._http.post(f"{where}/cancel")
            _must(answer.status_code < 300, answer.text)
        answer = await self._http.get(where, params={"wait": 60})
        _must(answer.status_code == 200, answer.text)
        found = answer.json()
        if found["problem"]:
            _must(found["problem"]["code"] == "pool_exhausted", found)
            return "refused"
        _must(found["status"] == ("cancelled" if slow else "ok"), found)
        _must(slow or found["answer"]["result"] == str(number * 3), found)
        return str(found["status"])

    async def _nonsense(self) -> str:
        path, body, status = self._random.choice(
            [
                ("/execute", {"code": 7}, 422),
                ("/execute", {"code": "1", "session": "no-such-session"}, 404),
                ("/functions/no_such_function/call", {}, 404),
                ("/functions/word_count/call", {"text": [1]}, 422),
                ("/register", {"name": "bad name", "source": "x = 1"}, 422),
                ("/nowhere", {}, 404),
            ]
        )
        answer = await self._http.post(path, json=body)
        _must(answer.status_code == status or answer.status_code in BUSY, answer.text)
        return "refused"

    async def _register(self) -> str:
        """A function of its own that changes; now and then with another package."""
        self._version += 1
        name = f"soak_{self._number}"
        body: dict[str, Any] = {"name": name, "source": f"def {name}() -> int:\n    return {self._version}\n"}
        if self._number == 0 and self._version % 8 == 0:
            body["packages"] = [PACKAGES[self._packages % len(PACKAGES)]]
            self._packages += 1
        answer = await self._http.post("/register", json=body)
        _must(answer.status_code in (200, 201), answer.text)
        called = await self._post(f"/functions/{name}/call", {})
        _must(called["result"] == self._version, called)
        return "new environment" if answer.json()["new_generation"] else "ok"

    # -- inside

    async def _post(self, path: str, body: object) -> dict[str, Any]:
        """An answer with 200; a busy service is asked again."""
        while True:
            answer = await self._http.post(path, json=body)
            if answer.status_code not in BUSY:
                break
            await asyncio.sleep(min(1.0, float(answer.headers.get("retry-after", 1))))
        _must(answer.status_code == 200, answer.text)
        found: dict[str, Any] = answer.json()
        return found


def _must(truth: object, answer: object) -> None:
    if not truth:
        raise Wrong(str(answer)[:600])


def _end(answer: Mapping[str, Any]) -> set[str]:
    return {str(answer["status"]), str(answer.get("reason"))}


def _patience(ends: frozenset[str]) -> float:
    """Seconds: few for what does not end by itself."""
    return 0.5 if "timeout" in ends else 30.0


# -- a soak


async def soak(url: str, headers: Mapping[str, str], operations: int, seed: int, say: Callable[[str], None]) -> Tally:
    """Do so many operations."""
    tally, left, start = Tally(), list(range(operations)), time.monotonic()
    limits = httpx2.Limits(max_connections=CLIENTS * 4)
    async with httpx2.AsyncClient(base_url=url, headers=dict(headers), timeout=120, limits=limits) as http:
        clients = [Client(number, http, tally, seed) for number in range(CLIENTS)]
        telling = asyncio.create_task(_tell(tally, operations, start, say))
        async with asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(client.work(left))
        telling.cancel()
        for number in range(CLIENTS):
            await http.delete(f"/sessions/soak-{number}")
    return tally


async def _tell(tally: Tally, operations: int, start: float, say: Callable[[str], None]) -> None:
    while True:
        await asyncio.sleep(10)
        rate = tally.answered / (time.monotonic() - start)
        say(f"{tally.answered:,} of {operations:,}, {rate:.0f} a second, {len(tally.wrong)} wrong")


def run(place: Place, url: str, operations: int, seed: int, say: Callable[[str], None]) -> Outcome:
    """A soak of a service that runs, with counts before and after."""
    headers = {"Authorization": f"Bearer {(place.home / 'token').read_text().strip()}"}

    def quiet() -> bool:
        health: dict[str, Any] = httpx2.get(f"{url}/healthz").json()
        found = [health[name] for name in ("fork", "running", "waiting", "sessions")]
        return found == ["ready", 0, 0, 0]

    asyncio.run(soak(url, headers, max(60, operations // 20), seed + 1, say))  # whatever comes with use
    before, start = place.at_rest(quiet, KEEP), time.monotonic()
    tally = asyncio.run(soak(url, headers, operations, seed, say))
    seconds, peak = time.monotonic() - start, place.count().memory
    return Outcome(operations, seconds, tally, before, place.at_rest(quiet, KEEP), peak)


def main(arguments: Sequence[str] | None = None) -> int:
    """Start a service, soak it, print. Exit code 1 where anything is lost, wrong or left."""
    parser = argparse.ArgumentParser(prog="make soak", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--operations", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", action="store_true", help=f"write the figures into {PAGE.name}")
    parser.add_argument("--cache", type=Path, default=ROOT / ".aigbb" / "cache")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="soak-") as made:
        folder, temporary = Path(made, "service"), Path(made, "t")
        temporary.mkdir()
        more = {"AIGBB_POOL_MAX": "2", "AIGBB_KEEP_GENERATIONS": str(KEEP), "TMPDIR": str(temporary)}
        with running(folder, options.cache.absolute(), more=more) as service:
            place = Place(service.process, folder / "home", temporary)
            outcome = run(
                place, service.url, options.operations, options.seed, lambda text: print(text, file=sys.stderr)
            )
    print(outcome.page())
    for fault in outcome.faults:
        print(f"FAULT {fault}")
    if options.write:
        write(outcome)
    return 1 if outcome.faults else 0


def write(outcome: Outcome) -> None:
    """Put the figures where the page has their place."""
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    tail = rest.partition(END)[2]
    PAGE.write_text(f"{head}{BEGIN}\n{outcome.page()}\n{END}{tail}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
