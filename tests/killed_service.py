"""A child process for test_crash: a service that does something, and kills itself at a given point of it.

`python killed_service.py FOLDER CACHE JSON`. The JSON says what: `do` is register, activate or start; `at` is the
beginning of a progress message, or `rename NAME`: just before a file or folder of that name is moved into its place;
`times` is how often the message has to come; `serves` is what it must serve before, versions by name; the rest is what
is registered or activated.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from kernels.progress import Step
from server.callers import Caller
from server.functions import Draft
from server.registrar import Wanted
from server.service import Service
from tests.homes import left_over, settings_of
from tests.lean import make_lean


def die() -> None:
    """As a power cut would."""
    os.kill(os.getpid(), signal.SIGKILL)


def watch_renames(name: str) -> None:
    """Die before anything named `name` gets its place."""

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event == "os.rename" and Path(str(arguments[1])).name == name:
            die()

    sys.addaudithook(hook)


async def main(folder: Path, cache: Path, plan: dict[str, Any]) -> None:
    """Open the service, see that it serves what it should, and go on until the point comes."""
    point, starting = plan["at"], plan["do"] == "start"

    left = plan.get("times", 1)

    def report(step: Step) -> None:
        nonlocal left
        left -= step.message.startswith(point)
        if left == 0:
            die()

    def begin() -> None:
        if point.startswith("rename "):
            watch_renames(point.removeprefix("rename "))

    if starting:
        begin()
    # A warm parent is there to be killed too; where another environment is built, it would only take long.
    settings = settings_of(folder, cache, fork=plan["do"] != "register")
    async with Service.open(settings, *([report] if starting else [])) as service:
        serves = {version.function.name: version.number for version in service.catalog(Caller()).versions}
        assert starting or serves == plan["serves"], serves
        assert left_over(folder / "home") == []
        begin()
        if plan["do"] == "register":
            draft = Draft(plan["source"], None, plan["packages"], plan["env"])
            await service.register([Wanted(draft)], Caller(), report)
        if plan["do"] == "activate":
            await service.activate(plan["name"], plan["version"], {}, Caller(), report)


if __name__ == "__main__":
    make_lean()
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])))
