"""Has sources read by a child process (`server.reading`), and tells its end apart from theirs.

A source may end its reader: that is the source's fault. A reader that cannot be started, or gets no time, is not.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import docstring_parser

from kernels.confinement import Confinement
from kernels.errors import ProcessUnavailable
from kernels.sandbox import Child, Finished
from server.reading import FILES, HERE

MAX_SOURCE = 256 * 1024
READER = HERE / "reading.py"
# Seconds for a reader that gets no time. What a source may take is limited in seconds of the processor, by the reader.
READER_TIMEOUT = 60.0
READ_AT_ONCE = 50
READING = b"reading"  # the first line of a reader that has come as far
_PARSER = Path(docstring_parser.__file__).parent
# In a sandbox there is no virtual environment, but the Python that it was made from.
_PYTHON = Path(sys.executable).resolve()
_UNCONFINED = Confinement()

# Starts a process that reads sources.
Reader = Callable[[], Awaitable[Child]]


async def start_reader(confinement: Confinement = _UNCONFINED) -> Child:
    """Start a process that waits for sources. It sees Python, its own files, and what reads docstrings."""
    argv: list[str | Path] = [_PYTHON, "-I", "-S", str(READER), str(_PARSER.parent)]
    return await Child.start(argv, env={"LANG": "C.UTF-8"}, cage=confinement.readers(*FILES, _PARSER))


async def read_sources(sources: Sequence[str], reader: Reader) -> list[dict[str, Any]]:
    """What each source defines, or why it cannot be read. One that ends the process harms no other."""
    sent = json.dumps([source if size_of(source) <= MAX_SOURCE else "" for source in sources]).encode()
    try:
        done = await _finished(sent, reader)
    except OSError as error:
        return [_unread(f"no process could be started: {error.strerror}")] * len(sources)
    began, _, answer = done.stdout.partition(b"\n")
    if done.timed_out:
        return [_unread(f"it took longer than {READER_TIMEOUT:g} s")] * len(sources)
    if began != READING or done.returncode == -signal.SIGKILL:  # no source ends its reader like that
        return [_unread("the process was ended before it had read them")] * len(sources)
    fault = "Python's parser did not survive it"
    if done.returncode == 0:
        try:
            facts: list[dict[str, Any]] = json.loads(answer)
        except ValueError:
            fault = "what it defines is too much to read"  # the answer was cut
        else:
            return facts
    if len(sources) == 1:
        return [{"error": "source_unparsable", "message": fault}]
    return [(await read_sources([source], reader))[0] for source in sources]


async def _finished(sent: bytes, reader: Reader) -> Finished:
    """How a reader ended that was given these. Raises OSError where none can be started."""
    child = await reader()
    try:
        return await child.finish(sent, READER_TIMEOUT)
    finally:
        await child.stop()


def _unread(why: str) -> dict[str, str]:
    """In place of what a source defines, where that is not the source's fault."""
    return {"error": ProcessUnavailable.code, "message": why}


def size_of(source: str) -> int:
    """Return the bytes of a source."""
    return len(source.encode("utf-8", "surrogatepass"))
