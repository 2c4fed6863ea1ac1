"""What this machine can confine processes with: tried out, not read off a list."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from kernels import sandbox
from kernels.cgroups import Cgroups
from kernels.confinement import INSIDE, SIGNALS, Bounds, Cage, Confinement
from kernels.errors import ConfinementUnavailable
from kernels.inside.confine import version
from kernels.mounts import Exposure
from kernels.seccomp import is_known
from kernels.views import SMALL

Wanted = Literal["auto", "required", "off"]

TRIAL_SECONDS = 20.0
# What a fork does for itself, without folders.
TRIAL = {"own": [], "kept": [], "size": SMALL, "alone": True}
INSTALL = (
    "Install it: apt-get install bubblewrap, or dnf, pacman or apk with that name. "
    "Without it, AIGBB_SANDBOX=auto allows the admin token on loopback only."
)


@dataclass(frozen=True, slots=True)
class Part:
    """One means of confinement on this machine; detail says what is there, or why it is not, fix what to do then.

    optional: the hardened profile is one without it, and says so.
    """

    name: str
    ok: bool
    detail: str
    fix: str = ""
    optional: bool = False


async def confine(wanted: Wanted, bounds: Bounds, exposure: Exposure) -> Confinement:
    """The confinement that was asked for, as far as this machine can. Raises ConfinementUnavailable, InvalidMount.

    auto takes what there is of the default profile; required is the hardened one, whole or not at all.
    """
    await asyncio.to_thread(exposure.check)
    if wanted == "off":
        return Confinement(reasons={"bubblewrap": "switched off"})
    program, python = await asyncio.to_thread(_bubblewrap), await asyncio.to_thread(_python)
    if wanted == "auto":
        bubblewrap = await _try_bubblewrap(program, Cage("default", program))
        found = Confinement("default", landlock=version(), bounds=bounds, exposure=exposure, python=python)
        if not bubblewrap.ok:
            return replace(found, reasons={"bubblewrap": bubblewrap.detail})
        return await _forkable(replace(found, bubblewrap=program))
    parts = await examine()
    if missing := [part for part in parts if not part.ok and not part.optional]:
        raise ConfinementUnavailable(
            f"AIGBB_SANDBOX=required, but {'; '.join(f'{part.name}: {part.detail}' for part in missing)}.",
            hint=" ".join(part.fix for part in missing),
            missing=[part.name for part in missing],
        )
    cgroups, why = await asyncio.to_thread(find_cgroups)
    found = Confinement(
        "hardened",
        program,
        landlock=version(),
        bounds=bounds,
        exposure=exposure,
        python=python,
        reasons={"cgroup": why},
        cgroups=cgroups,
    )
    return await _forkable(found)


async def _forkable(found: Confinement) -> Confinement:
    """The same, which knows whether a fork can enter namespaces of its own in the sandbox of its parent."""
    python = await asyncio.to_thread(Path(sys.executable).resolve)
    argv: list[str | Path] = [python, "-I", "-S", INSIDE / "namespaces.py", json.dumps(TRIAL)]
    cage = replace(found.readers(INSIDE), cgroups=None).nesting()
    done = await sandbox.run(argv, env={"LANG": "C.UTF-8"}, timeout=TRIAL_SECONDS, cage=cage)
    if done.returncode == 0:
        return found
    reason = f"kernels can't have namespaces of their own in one sandbox ({_said(done)})"
    return replace(found, unforkable=reason)


async def examine() -> list[Part]:
    """Every part of the hardened profile, tried out."""
    program = await asyncio.to_thread(_bubblewrap)
    bubblewrap = await _try_bubblewrap(program, Cage("hardened", program, network=False))
    return [bubblewrap, _landlock(), _seccomp(), await asyncio.to_thread(_cgroup)]


def find_cgroups() -> tuple[Cgroups | None, str]:
    """Where groups can be made, which the caller closes; else why they can't."""
    try:
        return Cgroups.find(), ""
    except OSError as error:
        return None, f"not delegated ({error.strerror or error})"


def _cgroup() -> Part:
    found, why = find_cgroups()
    if found is not None:
        found.close()
    detail = why or f"groups under {found.folders['memory'].parent}" if found else why
    return Part("cgroup", found is not None, detail, "Run as root, or by systemd with Delegate=yes.", optional=True)


def _bubblewrap() -> Path | None:
    found = shutil.which("bwrap") or shutil.which("bwrap", path="/usr/bin:/usr/local/bin")
    return Path(found) if found and sys.platform == "linux" else None


def _python() -> tuple[Path, ...]:
    """Where the environments' Python lives, by each of its names, unless it is the system's."""
    base = getattr(sys, "_base_executable", None) or sys.executable
    found = {Path(prefix) for prefix in (sys.base_prefix, sys.base_exec_prefix)}
    found |= {Path(program).parent.parent for program in (base, Path(sys.executable).resolve())}
    found |= {path.resolve() for path in found}
    return tuple(sorted(path for path in found if not path.is_relative_to("/usr") and path != Path("/")))


async def _try_bubblewrap(program: Path | None, cage: Cage) -> Part:
    """Run something in it: containers and some distributions let it start and forbid what it is for."""
    if program is None:
        return Part("bubblewrap", False, "not installed", INSTALL)
    done = await sandbox.run(["/bin/true"], env={}, timeout=TRIAL_SECONDS, cage=cage)
    if done.returncode == 0:
        return Part("bubblewrap", True, str(program))
    fix = "Allow unprivileged user namespaces: see docs/confinement.md, 'When bubblewrap may not run'."
    return Part("bubblewrap", False, f"it does not run here ({_said(done)})", fix)


def _said(done: sandbox.Finished) -> str:
    return (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]


def _landlock() -> Part:
    found = version()
    detail = f"ABI {found}" if found else "not in this kernel"
    fix = "It takes Linux 6.12 or newer, with `landlock` in its list of LSMs."
    return Part("landlock", found >= SIGNALS, detail, fix)


def _seccomp() -> Part:
    detail = "a list for this processor" if is_known() else "no list for this processor"
    return Part("seccomp", is_known(), detail, "Run on x86-64 or arm64.")
