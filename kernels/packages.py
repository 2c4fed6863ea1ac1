"""Requirement lines, and the resolver that turns all of them into one lock. uv does the work.

A caller's text never reaches uv: it is parsed here, and what is passed on is written anew.
"""

from __future__ import annotations

import hashlib
import platform
import re
import secrets
import shutil
import sysconfig
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement as PackagingError
from packaging.requirements import Requirement
from packaging.utils import InvalidName, canonicalize_name
from uv import find_uv_bin

from kernels import sandbox
from kernels.confinement import Cage
from kernels.errors import (
    AigbbError,
    BuildFailed,
    BuildNotAllowed,
    DependencyConflict,
    IndexUnavailable,
    InsufficientStorage,
    InvalidPackage,
    InvalidRequirement,
    PackageNotFound,
    PythonVersionMismatch,
    ResolveError,
    VersionNotFound,
)
from kernels.home import on_disk
from kernels.progress import Report, Step
from kernels.storage import says_full
from kernels.suggestions import suggestions

MAX_LINES = 100
MAX_LINE = 200
_COMMENT = re.compile(r"(?:^|\s)#")

DEFAULT_REQUIREMENTS = Path(__file__).parent / "requirements.txt"

# Import names whose distribution is called otherwise: a suggestion, never installed by itself.
DISTRIBUTION_OF = {
    "attr": "attrs",
    "bs4": "beautifulsoup4",
    "cairo": "pycairo",
    "cv2": "opencv-python-headless",
    "Crypto": "pycryptodome",
    "dateutil": "python-dateutil",
    "docx": "python-docx",
    "dotenv": "python-dotenv",
    "fitz": "pymupdf",
    "git": "GitPython",
    "googleapiclient": "google-api-python-client",
    "jose": "python-jose",
    "jwt": "PyJWT",
    "Levenshtein": "levenshtein",
    "magic": "python-magic",
    "MySQLdb": "mysqlclient",
    "OpenSSL": "pyOpenSSL",
    "PIL": "pillow",
    "pptx": "python-pptx",
    "psycopg2": "psycopg2-binary",
    "serial": "pyserial",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "slugify": "python-slugify",
    "telegram": "python-telegram-bot",
    "usb": "pyusb",
    "yaml": "PyYAML",
    "zmq": "pyzmq",
}

_POPULAR = [
    "requests",
    "numpy",
    "pandas",
    "matplotlib",
    "scipy",
    "scikit-learn",
    "pillow",
    "beautifulsoup4",
    "httpx",
    "lxml",
    "openpyxl",
    "polars",
    "pydantic",
    "seaborn",
    "sqlalchemy",
    "tabulate",
    "flask",
    "humanize",
    "rich",
    "jinja2",
    "networkx",
    "sympy",
    "statsmodels",
]


def parse_requirement(text: str, index: int = 0) -> str:
    """One caller's line as a canonical requirement.

    Raises InvalidRequirement for anything but name, extras, versions and marker (PEP 508 without URL).
    """
    line = text.strip()
    try:
        if len(line) > MAX_LINE or line.startswith("-"):
            raise PackagingError("an option or an overlong line")
        requirement = Requirement(line)
        for name in (requirement.name, *requirement.extras):
            canonicalize_name(name, validate=True)  # the parser takes those that end with an underscore
    except (PackagingError, InvalidName) as error:
        raise _refused(line, index, "is not a requirement") from error
    if requirement.url is not None:
        raise _refused(line, index, "names a URL or a path")
    return _canonical(requirement)


def parse_requirements(lines: Iterable[str]) -> tuple[str, ...]:
    """Many lines; blank ones and comments are left out, doubles are folded. Sorted.

    Raises InvalidRequirement with the index of the line.
    """
    kept = [(i, cut) for i, line in enumerate(lines) if (cut := _uncommented(line))]
    if len(kept) > MAX_LINES:
        raise InvalidRequirement(f"{len(kept)} requirement lines are more than {MAX_LINES}.")
    return tuple(sorted({parse_requirement(line, i) for i, line in kept}))


def _uncommented(line: str) -> str:
    """A line without spaces around it and without its comment, in time that grows with its length only."""
    found = _COMMENT.search(line)
    return (line[: found.start()] if found and "\n" not in line[found.end() :].rstrip() else line).strip()


def applies(requirement: str) -> bool:
    """Whether the marker of a requirement is true for this Python and platform."""
    marker = Requirement(requirement).marker
    return marker is None or marker.evaluate()


def distribution(requirement: str) -> str:
    """The canonical distribution name of a requirement."""
    return canonicalize_name(Requirement(requirement).name)


def _canonical(requirement: Requirement) -> str:
    extras = f"[{','.join(sorted({canonicalize_name(e) for e in requirement.extras}))}]" if requirement.extras else ""
    marker = f" ; {requirement.marker}" if requirement.marker else ""
    return f"{canonicalize_name(requirement.name)}{extras}{requirement.specifier}{marker}"


def _refused(line: str, index: int, why: str) -> InvalidRequirement:
    return InvalidRequirement(f"Requirement {line[:MAX_LINE]!r} {why}.", index=index, requirement=line[:MAX_LINE])


@dataclass(frozen=True)
class Lock:
    """Every distribution of an environment, pinned and hashed: a requirements.txt (PEP 508 with hashes)."""

    text: str

    @cached_property
    def digest(self) -> str:
        """sha256 of the text, hex."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @cached_property
    def pins(self) -> Mapping[str, str]:
        """Distribution to version."""
        return dict(re.findall(r"^([a-z0-9][a-z0-9._-]*)==([^\s;\\]+)", self.text, re.MULTILINE))

    def satisfies(self, requirement: str) -> bool:
        """Whether what is pinned is what a requirement asks for. Of extras nothing is known: those do not count."""
        asked = Requirement(requirement)
        pinned = self.pins.get(canonicalize_name(asked.name))
        if asked.marker is not None and not asked.marker.evaluate():
            return True
        return pinned is not None and not asked.extras and asked.specifier.contains(pinned, prereleases=True)

    def changes(self, since: Lock | None) -> dict[str, list[str]]:
        """What is new, gone or moved against an older lock, as `name==version` lines."""
        old = since.pins if since else {}
        return {
            "added": [f"{n}=={v}" for n, v in self.pins.items() if n not in old],
            "removed": [f"{n}=={v}" for n, v in old.items() if n not in self.pins],
            "changed": [f"{n}=={v}" for n, v in self.pins.items() if n in old and old[n] != v],
        }


@dataclass(frozen=True)
class Resolved:
    """A lock and where its answer came from: what was cached, or the index."""

    lock: Lock
    source: str


@dataclass(frozen=True)
class Uv:
    """The uv program with the arguments and the environment that every call of ours has.

    env is the child's whole environment; build_timeout is in seconds.
    """

    python: Path
    cache: Path
    env: Mapping[str, str]
    build_timeout: float = 600.0
    program: str = field(default_factory=find_uv_bin)

    async def run(
        self,
        *arguments: str | Path,
        report: Report | None = None,
        offline: bool = False,
        stdin: bytes = b"",
        cage: Cage | None = None,
    ) -> sandbox.Finished:
        """Run `uv ARGUMENTS` without configuration files; phases go to `report` as uv tells them. cage: confines it."""
        argv = [self.program, *arguments, "--no-config", "--cache-dir", self.cache, "--color", "never"]
        argv += ["--offline"] if offline else []
        heard = (lambda line: _hear(line, report)) if report else None
        return await sandbox.run(argv, env=self.env, timeout=self.build_timeout, stdin=stdin, on_line=heard, cage=cage)

    async def resolve(self, owners: Mapping[str, Sequence[str]], previous: Lock | None, report: Report) -> Resolved:
        """The lock for a set of requirements, each with the names of those who ask for it.

        Pins of `previous` stay where they can. The cache is asked first, then the index.
        Raises ResolveError's children, InsufficientStorage, BuildFailed. Nothing is written outside a temporary folder.
        """
        report(Step("resolve", f"Resolving {len(owners)} requirements"))
        for offline in (True, False):
            finished, lock = await self._compile(owners, previous, offline)
            if finished.returncode == 0 and lock is not None:
                report(Step("resolve", f"Resolved {len(lock.pins)} packages"))
                return Resolved(lock, "cache" if offline else "index")
        raise _explain(finished, owners)

    async def _compile(
        self, owners: Mapping[str, Sequence[str]], previous: Lock | None, offline: bool
    ) -> tuple[sandbox.Finished, Lock | None]:
        folder = Path(await on_disk(tempfile.gettempdir), f"aigbb-resolve-{secrets.token_hex(8)}")
        output = folder / "lock.txt"
        try:
            await on_disk(_begin, output, previous)
            options = ["-q", "--no-build", "--no-header", "--no-annotate", "--generate-hashes"]
            files: list[str | Path] = ["--python", self.python, "-o", output, "-"]
            asked = "\n".join(owners).encode()
            finished = await self.run("pip", "compile", *options, *files, offline=offline, stdin=asked)
            if finished.returncode != 0 or finished.timed_out:
                return finished, None
            return finished, Lock(_stamp() + await on_disk(output.read_text, encoding="utf-8"))
        finally:
            await on_disk(shutil.rmtree, folder, ignore_errors=True)


def _begin(output: Path, previous: Lock | None) -> None:
    output.parent.mkdir(mode=0o700)
    if previous is not None:
        output.write_text(previous.text, encoding="utf-8")


def _stamp() -> str:
    """A lock is for one Python on one platform: another one gives another digest."""
    return f"# Python {platform.python_version()}, {sysconfig.get_platform()}\n"


_NO_INDEX = re.compile(
    "Failed to fetch|error sending request|client error|dns error|Could not connect"
    "|could not be queried|(Unsupported|Missing) `Content-Type`"
)

# What the installer says of a package whose file is at fault: the name, and then what is wrong with it.
_UNSOUND = (
    re.compile(
        r"(?:structure|metadata) (?:of|for) `?([\w.-]+)`? .*(?:was invalid|was inconsistent|not be parsed):\s*(.+)",
        re.I,
    ),
    re.compile(r"Package metadata (name `[^`]+` does not match given name `([\w.-]+)`)"),
    re.compile(
        r"Failed to (?:download|install):? `?([\w.-]+)[\s\S]*?"
        r"(Hash mismatch|Invalid zip[^\n]*|Failed to read from zip[^\n]*|Failed to extract[^\n]*"
        r"|The wheel is invalid[^\n]*|Wheel (?:name|version) does not match[^\n]*?\)|No such file[^\n]*)"
    ),
)

_UV_LINES = (
    (r"Downloading (\S+ \(.*\))", Step("download", "Downloading")),
    (r"Prepared (\d+ packages?) in", Step("download", "Downloaded")),
    (r"Installed (\d+ packages?) in", Step("install", "Installed")),
)


def _hear(line: str, report: Report) -> None:
    for pattern, step in _UV_LINES:
        if match := re.match(pattern, line):
            report(Step(step.phase, f"{step.message} {match[1]}"))


def faulty_package(text: str) -> InvalidPackage | None:
    """Return the error for a package whose file is at fault, if that is what the installer says."""
    for pattern in _UNSOUND:
        if match := pattern.search(text):
            name, fault = match[1], match[2]
            if pattern is _UNSOUND[1]:
                name, fault = fault, name
            if fault.startswith("No such file"):
                fault = "a file of its metadata is missing"
            return InvalidPackage(f"The file of {name} is no sound package: {fault}.", package=name, explanation=text)
    return None


def _explain(finished: sandbox.Finished, owners: Mapping[str, Sequence[str]]) -> AigbbError:
    """uv's own sentence as an error of ours, with who asked for what."""
    text = re.sub(r"^(error|\s+cause): ?", "", finished.stderr.strip(), flags=re.MULTILINE)[-4000:]
    if finished.timed_out:
        return IndexUnavailable("Resolving did not come to an end in time.", explanation=text)
    if says_full(text):
        return InsufficientStorage("The disk is full.", explanation=text)
    if faulty := faulty_package(text):
        return faulty
    if _NO_INDEX.search(text):
        return IndexUnavailable("The package index could not be reached.", explanation=text)
    if "Couldn't parse requirement" in text:
        return InvalidRequirement("The installer does not read one of the requirements.", explanation=text)
    if "Because" not in text:
        return BuildFailed("The installer could not resolve the packages.", log=text)
    asked: list[dict[str, object]] = [
        {"requirement": spec, "functions": list(names)}
        for spec, names in owners.items()
        if re.search(rf"(?<![\w-]){re.escape(distribution(spec))}(?![\w-])", text)
    ]
    return _classify(text, asked)


def _classify(text: str, asked: list[dict[str, object]]) -> ResolveError:
    extra: dict[str, Any] = {"requirements": asked, "explanation": text}
    names = " and ".join(f"{one['requirement']!r}" for one in asked)
    if match := re.search(r"Because (\S+) was not found in the package registry", text):
        near = _suggest(match[1])
        return PackageNotFound(
            f"There is no package {match[1]!r}.",
            fix={"packages": near[:1]} if near else None,
            package=match[1],
            suggestions=near,
            **extra,
        )
    if match := re.search(r"(\S+) ha(?:s|ve) no (?:usable )?wheels", text):
        return BuildNotAllowed(f"There is no wheel of {match[1]} for this Python and platform.", **extra)
    if match := re.search(r"current Python version \((\S+)\) does not satisfy (\S+) and (\S+) depends", text):
        return PythonVersionMismatch(f"{match[3]} needs {match[2]}; kernels run Python {match[1]}.", **extra)
    if re.search(
        r"Because (there is no version of|there are no versions of|only .* (is|are) available|\S+ was yanked)", text
    ):
        return VersionNotFound(f"No version of the package fits {names}.", **extra)
    return DependencyConflict(f"{names} cannot be installed together.", **extra)


def _suggest(name: str) -> list[str]:
    known: dict[str, str] = {canonicalize_name(k): v for k, v in DISTRIBUTION_OF.items()}
    near = suggestions(name, [*_POPULAR, *DISTRIBUTION_OF.values()], 3, 0.8)
    return list(dict.fromkeys([*([known[name]] if name in known else []), *near]))
