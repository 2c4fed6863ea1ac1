"""The functions of the snapshot that a generation's pointer names, as loaded into one process."""

import contextlib
import io
import json
import os
import sys
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .package import PACKAGE, Package


class Library:
    """Keeps up with the pointer. Each function is imported by itself: a broken one harms no other."""

    def __init__(self, generation: Path, *, warm: bool = False) -> None:
        """warm: this is the parent of kernels, where each import is tried before it is done."""
        self.warm = warm
        self.pinned = False  # whether to stay with the snapshot
        self.pointer = str(generation / "snapshot")
        self.edition = 0  # counts what came and went
        self.seen: tuple[int, ...] = ()  # what the file system says of the pointer that was followed last
        self.snapshot = ""
        self.package = Package()
        self.package.__library__ = self
        self.known: Mapping[str, Mapping[str, Any]] = {}
        self.environment: Mapping[str, str] = {}
        self.functions: dict[str, Any] = {}
        self.failures: dict[str, str] = {}
        self.waiting: set[str] = set()  # not imported yet, and neither there nor failed
        self.given: set[str] | None = set()  # secrets that have come; None where none will, and nothing waits for them
        self.unsaid: list[str] = []
        self.trouble = ""

    def refresh(self) -> None:
        """Import what is new or changed in the snapshot that the pointer names now, and what waits."""
        if not self.pinned:
            self.look()
        for name in () if self.warm else sorted(self.ready):
            self.take(name)

    @property
    def ready(self) -> set[str]:
        """What waits for nothing but its import."""
        return {name for name in self.waiting if not self.missing(name)}

    def missing(self, name: str) -> list[str]:
        """The secrets that a function waits for: it may need them as soon as it is imported."""
        known = self.known.get(name, {})
        return [] if self.given is None else [s for s in known.get("secrets", ()) if s not in self.given]

    def give(self, names: Iterable[str] | None) -> None:
        """These secrets are in the environment now, or will never be. None: no function is to wait for any."""
        self.given = None if names is None else {*(self.given or ()), *names}
        self.package.__hide__(filter(self.missing, self.known))

    def look(self) -> None:
        """See whether the pointer names another snapshot: what is to be imported waits then."""
        try:
            stat = os.stat(self.pointer)  # noqa: PTH116  # before each cell: the quickest way to see a change
            seen = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if seen != self.seen:
                self.follow()
                self.seen = seen
            self.trouble = ""
        except OSError as error:
            self.complain(f"{PACKAGE}: the functions could not be read ({error.strerror})")

    def follow(self) -> None:
        """Turn to what the pointer names. Raises OSError."""
        snapshot = Path(self.pointer).read_text(encoding="utf-8")
        if snapshot != self.snapshot:
            self.turn(Path(snapshot))
            self.snapshot = snapshot

    def turn(self, snapshot: Path) -> None:
        """Be another snapshot: what is gone or stale there is forgotten, what is new or stale waits."""
        environment = json.loads((snapshot / "environment.json").read_text(encoding="utf-8"))
        functions = json.loads((snapshot / "manifest.json").read_text(encoding="utf-8"))
        moved = environment != self.environment
        moving = {n: v for n, v in environment.items() if self.environment.get(n) != v}
        os.environ.update({n: v for n, v in moving.items() if n not in (self.given or ())})
        self.environment = environment
        stale = {n for n, f in functions.items() if moved or n in self.failures or is_stale(f, self.known.get(n))}
        if sys.path[0] != str(snapshot):
            sys.path[:] = [str(snapshot), *(entry for entry in sys.path if entry not in (str(snapshot), self.snapshot))]
        self.package.__show__(snapshot, functions, stale)
        for name in stale | (self.known.keys() - functions.keys()):
            self.functions.pop(name, None)
            self.failures.pop(name, None)
        self.known = functions
        self.package.__hide__(filter(self.missing, functions))
        self.edition += 1
        self.waiting = (self.waiting & functions.keys()) | stale

    def take(self, name: str) -> None:
        """Import one function; a broken one is told, and harms no other."""
        said = io.StringIO()
        self.waiting.discard(name)
        self.edition += 1
        try:
            with contextlib.redirect_stderr(said):
                self.functions[name] = self.package.__load__(name)
        except (Exception, SystemExit) as error:
            reason = traceback.format_exception_only(error)[-1].strip().partition("\n")[0]
            if self.given is None and (secrets := self.known[name].get("secrets")):
                reason = f"{reason}; it has secrets, {', '.join(secrets)}, which are not given to notebooks"
            self.failures[name] = reason
            self.unsaid.append(f"{PACKAGE}: {name} is not available ({reason})")
        self.unsaid += said.getvalue().splitlines()

    def complain(self, trouble: str) -> None:
        """Say it once, not before every cell for as long as it lasts."""
        if trouble != self.trouble:
            self.unsaid.append(trouble)
        self.trouble = trouble

    @property
    def number(self) -> int | None:
        """The snapshot's number; None before there is one."""
        name = Path(self.snapshot).name
        return int(name) if name.isdecimal() else None

    def take_unsaid(self) -> list[str]:
        """What there is to say, each line once."""
        said, self.unsaid = self.unsaid, []
        return said


def is_stale(function: Mapping[str, Any], known: Mapping[str, Any] | None) -> bool:
    """Whether a function must be imported anew: it changed, or its secrets, or its file uses others that may have."""
    return (
        known is None
        or known["digest"] != function["digest"]
        or known.get("secrets") != function.get("secrets")
        or bool(function["uses"])
    )
