"""Wholes of results that a model is shown in part, and pictures: files in the home, few and not for ever."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import re
import secrets
from pathlib import Path

from kernels.home import on_disk
from server.callers import Caller
from server.errors import UnknownResult

MAX_FILES = 1000
MAX_BYTES = 256 * 1024 * 1024

# What a result may be, by its file's extension. All else is bytes.
KINDS = {"png": "image/png", "jpg": "image/jpeg", "txt": "text/plain", "json": "application/json"}
BYTES = "application/octet-stream"
_EXTENSIONS = {kind: extension for extension, kind in KINDS.items()}
# What cannot be guessed, then whose it is.
_NAME = re.compile(r"[A-Za-z0-9_-]{16}([A-Za-z0-9_-]{6})\.(png|jpg|txt|json|bin)")


class Results:
    """Keeps results under names that cannot be guessed; when there are too many, the oldest go.

    Reads the folder when it is made: what an earlier service left there counts, and can be read.
    """

    def __init__(self, folder: Path, *, max_files: int = MAX_FILES, max_bytes: int = MAX_BYTES) -> None:
        self._folder = folder
        self._max_files = max_files
        self._max_bytes = max_bytes
        self._sizes = dict(_found(folder))  # oldest first
        self._changing = asyncio.Lock()

    async def keep(self, data: bytes, kind: str, owner: str) -> str:
        """The link under which owner, the id of a key, can read it. Raises OSError where the disk says no."""
        name = f"{secrets.token_urlsafe(12)}{_mark(owner)}.{_EXTENSIONS.get(kind, 'bin')}"
        async with self._changing:
            self._sizes[name] = len(data)
            await on_disk(_replace, self._folder / name, data, [self._folder / old for old in self._excess()])
        return f"/results/{name}"

    async def read(self, name: str, caller: Caller) -> tuple[bytes, str]:
        """What was kept, and its media type. Raises UnknownResult, also for what is no name of ours, or not theirs."""
        match = _NAME.fullmatch(name)
        if match is None or not (caller.admin or match[1] == _mark(caller.key)):
            raise UnknownResult("There is no such result.")
        try:
            return await on_disk((self._folder / name).read_bytes), KINDS.get(match[2], BYTES)
        except FileNotFoundError as error:
            raise UnknownResult("There is no such result.") from error

    def _excess(self) -> list[str]:
        """The oldest names, which are forgotten, until the rest is within the bounds or only the newest is left."""
        gone, total = [], sum(self._sizes.values())
        while len(self._sizes) > 1 and (len(self._sizes) > self._max_files or total > self._max_bytes):
            oldest = next(iter(self._sizes))
            total -= self._sizes.pop(oldest)
            gone.append(oldest)
        return gone


def _mark(owner: str) -> str:
    """Six signs that stand for an owner in a name."""
    return base64.urlsafe_b64encode(hashlib.sha256(owner.encode()).digest())[:6].decode()


def _found(folder: Path) -> list[tuple[str, int]]:
    """Names and sizes of what is there, oldest first."""
    stats = {path.name: path.stat() for path in folder.iterdir() if _NAME.fullmatch(path.name)}
    return [(name, stats[name].st_size) for name in sorted(stats, key=lambda name: stats[name].st_mtime_ns)]


def _replace(path: Path, data: bytes, old: list[Path]) -> None:
    for each in old:
        each.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
