"""What the packages of a new environment may not do: run at every start, overwrite each other, or pose as ours.

Read off the files, before anything of them runs.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from kernels.errors import UnsafePackage

# Start-up hooks that are known, by file, and whose they are: uv's own, of no package, and setuptools'.
KNOWN_HOOKS = {"_virtualenv.pth": "", "distutils-precedence.pth": "setuptools"}
AT_EVERY_START = ("sitecustomize", "usercustomize")
OURS = ("aigbb_functions", "aigbb_inside")
MOST = 20  # findings that are told


def inspect(venv: Path) -> None:
    """Raises UnsafePackage, which says of which package and why."""
    [site] = venv.glob("lib/python*/site-packages")
    found: list[dict[str, str]] = []
    owners: dict[str, tuple[str, str]] = {}
    for record in sorted(site.glob("*.dist-info/RECORD")):
        package = record.parent.name.rsplit(".", 1)[0].replace("-", "==")
        for path, digest in _files(record):
            if reason := _refused(path) or _clash(path, package, digest, owners):
                found.append({"package": package, "file": path, "reason": reason})
    for hook in site.glob("*.pth"):
        owner, _ = owners.get(hook.name, ("", ""))
        if owner.partition("==")[0] != KNOWN_HOOKS.get(hook.name, "-") and _runs(hook):
            found.append({"package": owner, "file": hook.name, "reason": "runs code at every start of Python"})
    if found:
        first = found[0]
        raise UnsafePackage(
            f"{first['package'] or 'A package'} is refused: its file {first['file']} {first['reason']}.",
            findings=found[:MOST],
        )


def _files(record: Path) -> Iterator[tuple[str, str]]:
    """What a package has installed: path from `site-packages`, and digest, empty where it has none."""
    with record.open(encoding="utf-8", errors="replace", newline="") as file:
        for row in csv.reader(file):
            if row:
                yield str(PurePosixPath(row[0])), row[1] if len(row) > 1 else ""


def _refused(path: str) -> str:
    top = path.split("/")[0]
    if top.removesuffix(".py") in AT_EVERY_START:
        return "is run at every start of Python"
    if top.removesuffix(".py") in OURS:
        return "poses as a part of the service"
    if top == ".." and "/bin/" in path and PurePosixPath(path).name.startswith(("python", "activate")):
        return "replaces the environment's own program"
    if path.startswith("/") or path.count("../") > len(("lib", "python", "site-packages")):
        return "is outside of the environment"
    return ""


def _clash(path: str, package: str, digest: str, owners: dict[str, tuple[str, str]]) -> str:
    """Whose file it is already, if its content is another."""
    owner, theirs = owners.setdefault(path, (package, digest))
    return f"is also {owner}'s, with another content" if owner != package and theirs != digest else ""


def _runs(hook: Path) -> bool:
    """Whether a `.pth` file has a line that is code; others only add folders."""
    lines = hook.read_text(encoding="utf-8", errors="replace").splitlines()
    return any(line.startswith(("import ", "import\t")) for line in lines)
