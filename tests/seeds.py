"""Homes that are copied in place of being built: what never changes in them is linked, the rest is written anew."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.artifacts import link_tree

# What each service makes for itself, and what is one service's alone.
OWN = ("token", "audit.sqlite3", "service.lock")


def seed(template: Path, folder: Path) -> None:
    """Give a folder the home of another one's service, with a token and an audit of its own."""
    home = folder / "home"
    link_tree(template / "home", home)
    for name in OWN:
        (home / name).unlink(missing_ok=True)
    _write_anew([*home.glob("*"), *home.rglob("snapshot")])
    if not (folder / "extra-requirements.txt").exists():
        shutil.copy(template / "extra-requirements.txt", folder)


def copied(template: Path, copy: Path) -> Path:
    """Make another folder like it, whose files may be written to, but those of environments."""
    link_tree(template, copy)
    (copy / "home" / "service.lock").unlink()  # a link is the same lock
    written = [
        *(copy / "home").glob("*"),
        *(copy / "home").rglob("snapshot"),
        *copy.glob("*.txt"),
        *(copy / "aigbb_functions").glob("*"),
    ]
    _write_anew(written)
    return copy


def _write_anew(paths: list[Path]) -> None:
    """Replace links to others' files by copies."""
    for path in (path for path in paths if path.is_file() and not path.is_symlink()):
        data, mode = path.read_bytes(), path.stat().st_mode
        path.unlink()
        path.touch(mode)
        path.write_bytes(data)
