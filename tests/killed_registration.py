"""A child process for test_crash: registers a function and kills itself at a given point.

`python killed_registration.py FOLDER CACHE POINT`. POINT is the beginning of a progress message, or
`rename NAME`: just before a file or folder of that name is moved into its place.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from kernels.progress import Step
from server.callers import Caller
from server.functions import Draft
from server.registrar import Wanted
from server.service import Service
from server.settings import Settings

SOURCE = "import iniconfig\n\ndef crashed(n: int) -> int:\n    return n + 1\n"


def die() -> None:
    """As a power cut would."""
    os.kill(os.getpid(), signal.SIGKILL)


def watch_renames(name: str) -> None:
    """Die before anything named `name` gets its place."""

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event == "os.rename" and Path(str(arguments[1])).name == name:
            die()

    sys.addaudithook(hook)


async def main(folder: Path, cache: Path, point: str) -> None:
    """Open the service, then register until the point comes."""

    def report(step: Step) -> None:
        if step.message.startswith(point):
            die()

    settings = Settings(
        home=folder / "home",
        functions_dir=folder / "aigbb_functions",
        kernelspecs_dir=folder / "kernels",
        cache=cache,
        pool_size=0,
    )
    async with Service.open(settings) as service:
        if point.startswith("rename "):
            watch_renames(point.removeprefix("rename "))
        draft = Draft(SOURCE, "crashed", ["iniconfig"], {"CRASH_KEY": "hidden"})
        await service.register([Wanted(draft)], Caller(), report)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))
