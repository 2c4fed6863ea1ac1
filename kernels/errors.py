"""The error tree, engine's half; the doors' half is `server.errors`.

AigbbError
├── InvalidRequirement          422  a package line that is not a plain requirement
├── ResolveError                     the packages of all functions do not fit together
│   ├── PackageNotFound         422
│   ├── VersionNotFound         422
│   ├── DependencyConflict      409
│   ├── BuildNotAllowed         422  only a source distribution exists
│   ├── PythonVersionMismatch   422
│   ├── InvalidPackage          422  a wheel that is not whole, or not the one that the index lists
│   └── IndexUnavailable        503
├── BuildFailed                 500  an environment could not be installed
├── UnsafePackage               422  a package would do what none may
├── InsufficientStorage         507
├── StorageFailed               500  a file of the service cannot be read or written, and the disk is not full
├── ProcessUnavailable          503  a child process cannot be started, or is given no time
├── EnvironmentDamaged          503  files of the environment that serves are gone
├── ProbeError                       a function does not work in its environment
│   ├── ImportFailed            422
│   ├── MissingDependency       422
│   ├── ImportTimeout           422
│   ├── ProbeCrashed            422
│   └── SchemaError             422
├── KernelStartFailed           503
├── PoolExhausted               503
├── ShuttingDown                503  the service winds down
├── SessionNotFound             404
├── SessionExists               409
├── ConfinementUnavailable           the machine can't do what AIGBB_SANDBOX needs
└── SessionBusy                 409  nothing to interrupt, or one operation too many
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self


class AigbbError(Exception):
    """Root of everything this project raises on purpose.

    Attributes:
        code: stable machine name. status: the HTTP status a door answers with.
        detail: what happened, one sentence. hint: what to do next. extra: more members of the answer, of which
            `fix` is the same as the hint for a program: members of the request to add or to replace.
    """

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    hint: str = ""

    def __init__(
        self, detail: str, *, hint: str | None = None, fix: Mapping[str, Any] | None = None, **extra: Any
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.extra = {**extra, "fix": dict(fix)} if fix else extra
        if hint is not None:
            self.hint = hint


class InvalidRequirement(AigbbError):
    """A package line that is an option, a URL, a path, or not a requirement at all."""

    code, status = "invalid_requirement", 422
    hint = 'Give names and versions only, such as "requests" or "pandas>=2,<3", one requirement each.'


class ResolveError(AigbbError):
    """The packages of all functions together have no solution."""


class PackageNotFound(ResolveError):
    """The package index knows no such distribution."""

    code, status = "package_not_found", 422
    hint = "Check the spelling; the distribution's name may differ from the import's name."


class VersionNotFound(ResolveError):
    """The distribution exists, the version asked for does not."""

    code, status = "version_not_found", 422
    hint = "Loosen the version, or leave it out to take what fits."


class DependencyConflict(ResolveError):
    """Two requirements exclude each other."""

    code, status = "dependency_conflict", 409
    hint = "Loosen one of the listed requirements; all functions share one environment."


class BuildNotAllowed(ResolveError):
    """There is no wheel, and building a source distribution would run its code."""

    code, status = "build_not_allowed", 422
    hint = "Choose a version that ships a wheel for this Python and platform."


class PythonVersionMismatch(ResolveError):
    """The package needs another Python."""

    code, status = "python_version_mismatch", 422
    hint = "Choose a version that supports the kernel's Python, or start the service with another Python."


class InvalidPackage(ResolveError):
    """A package's file is no sound wheel, or not the file that the index lists."""

    code, status = "invalid_package", 422
    hint = "Ask for another version of `package`, or have the index's operator replace the file. Nothing was changed."


class IndexUnavailable(ResolveError):
    """The package index did not answer."""

    code, status = "index_unavailable", 503
    hint = "Nothing was changed. Check the network or the index settings, then send the same request again."


class BuildFailed(AigbbError):
    """The environment could not be installed."""

    code, status = "build_failed", 500
    hint = "Nothing was changed. The last lines of the installer are in `log`."


class InsufficientStorage(AigbbError):
    """The disk is full."""

    code, status = "insufficient_storage", 507
    hint = "Nothing was changed. Free space under the home folder, then send the same request again."


class StorageFailed(AigbbError):
    """A file of the service cannot be read or written, and not because the disk is full."""

    code, status = "storage_failed", 500
    hint = "Nothing was changed. The service's log names the file: `storage.failed`."


class ProcessUnavailable(AigbbError):
    """A child process could not be started, or got no time on a busy machine."""

    code, status = "process_unavailable", 503
    hint = "Nothing was changed. Send the same request again when the machine is less busy."


class EnvironmentDamaged(AigbbError):
    """Files of the environment that serves are gone or cut off: it is built again."""

    code, status = "environment_damaged", 503
    hint = "Nothing was changed. The environment is built again; send the same request again when /healthz says ok."


class ProbeError(AigbbError):
    """A function does not work in the environment that would serve it."""


class ImportFailed(ProbeError):
    """Importing the function's file raised."""

    code, status = "import_failed", 422
    hint = "The source runs once on import; fix what it raises, or move that code into the function."


class MissingDependency(ProbeError):
    """Importing the function's file asked for a module that no package of it provides."""

    code, status = "missing_dependency", 422


class ImportTimeout(ProbeError):
    """Importing the function's file did not come to an end."""

    code, status = "import_timeout", 422
    hint = "The source runs once on import; move long or waiting work into the function."


class ProbeCrashed(ProbeError):
    """Importing the function's file ended the process."""

    code, status = "probe_crashed", 422
    hint = "The source must not exit, abort or kill its process on import."


class SchemaError(ProbeError):
    """A parameter's type has no JSON form."""

    code, status = "schema_error", 422
    hint = "Annotate with types that JSON can carry: str, int, list, dict, Literal, dataclasses, models."


class KernelStartFailed(AigbbError):
    """A kernel process ended or hung before it was ready."""

    code, status = "kernel_start_failed", 503
    hint = "Run `aigbb doctor`; the kernel's last words are in `log`."


class PoolExhausted(AigbbError):
    """Everything is running and enough is waiting already."""

    code, status = "pool_exhausted", 503
    hint = "Wait for the seconds in Retry-After, then send the same request again."


class ShuttingDown(AigbbError):
    """The service winds down: it takes nothing new, and what goes on has little time left."""

    code, status = "shutting_down", 503
    hint = "Send the same request again once the service is back; a change that was committed answers as unchanged."


class SessionNotFound(AigbbError):
    """No such session; it may have expired."""

    code, status = "session_not_found", 404
    hint = "Sessions end when idle. Open a new one with POST /sessions, or leave `session` out."

    @classmethod
    def of(cls, identity: str) -> Self:
        """The same words for one that is not there and for one of somebody else."""
        return cls(f"There is no session {identity[:80]!r}.")


class SessionExists(AigbbError):
    """The id is taken."""

    code, status = "session_exists", 409
    hint = "Use the session that is there, delete it first, or leave `id` out to get a fresh one."


class SessionBusy(AigbbError):
    """The operation does not fit what the session is doing."""

    code, status = "session_busy", 409
    hint = "Wait for the running execution, or POST /sessions/{id}/interrupt."


class UnsafePackage(AigbbError):
    """A package runs code at every start, replaces another's modules, or poses as a part of the service."""

    code, status = "unsafe_package", 422
    hint = "Leave the package out, or ask for another version. `findings` names the files. Nothing was changed."


class ConfinementUnavailable(AigbbError):
    """A part of the sandbox is missing on this machine, and without it the service does not start."""

    code = "confinement_unavailable"
    hint = "Install what is missing, or choose another profile with AIGBB_SANDBOX."


class InvalidMount(AigbbError):
    """`AIGBB_MOUNTS` names a path that kernels can't be shown, so the service does not start."""

    code = "invalid_mount"
    hint = (
        "Correct AIGBB_MOUNTS: comma-separated absolute paths of existing files and folders, each with or without :rw."
    )
