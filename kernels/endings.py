"""How code came to its end other than by itself: what ended it, and how its kernel's process ended."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Literal

# Of a kernel that died: it exited, was killed by a signal, ran out of memory, was stopped by whoever owns it, or no
# longer answered properly. Of code that was stopped: by an interrupt, with its kernel, or before it began.
Reason = Literal["exit", "signal", "oom", "stopped", "poisoned", "interrupted", "killed", "not_started"]

# How a kernel came to its end before anybody was done with it: it left, a signal ended it, or we had to.
Death = Literal["exit", "signal", "killed", "oom", "timeout", "output_limit", "abandoned", "poisoned"]


@dataclass(frozen=True, slots=True)
class Ending:
    """What ended code. exit_code and signal, such as SIGSEGV, are those of a process that ended by itself."""

    reason: Reason
    exit_code: int | None = None
    signal: str | None = None

    @classmethod
    def of(cls, code: int | None, *, stopped: bool, out_of_memory: bool) -> Ending:
        """How a process ended, from its exit code, which is negative for a signal.

        stopped: we have killed it. out_of_memory: the system has, for that reason.
        """
        if stopped:
            return cls("stopped")
        if code is None or code >= 0:
            return cls("exit", exit_code=code)
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return cls("oom" if out_of_memory else "signal", signal=name)

    @property
    def cause(self) -> Death:
        """Of a process that ended by itself."""
        match self.reason:
            case "oom" | "exit":
                return self.reason
        return "killed" if self.signal == "SIGKILL" else "signal"

    def __str__(self) -> str:
        """What the kernel did, in words."""
        match self.reason:
            case "stopped":
                return "was stopped"
            case "exit":
                return f"exited with code {self.exit_code}"
            case "oom":
                return "ran out of memory and was killed"
            case "poisoned":
                return "stopped answering properly and was replaced"
        memory = "; often the machine, or its limit, ran out of memory" if self.signal == "SIGKILL" else ""
        return f"was killed by {self.signal}{memory}"
