"""What the disk refuses, as errors of ours: a full disk is one cause, and every other one is named as it is."""

from __future__ import annotations

import errno

import structlog

from kernels.errors import AigbbError, InsufficientStorage, ProcessUnavailable, StorageFailed

log = structlog.get_logger(__name__)

# Nothing can be written until somebody makes room, raises a quota or mounts the disk for writing.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
# No process can be started, or no file opened, until others end.
_EXHAUSTED = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE})
# As other programs' last words have it.
_FULL_WORDS = ("No space left on device", "Disk quota exceeded", "Read-only file system")


def is_full(error: OSError) -> bool:
    """Whether the disk takes nothing more."""
    return error.errno in _FULL


def says_full(text: str) -> bool:
    """Whether another program's last words are that the disk takes nothing more."""
    return any(words in text for words in _FULL_WORDS)


def refusal(what: str, error: OSError) -> AigbbError:
    """Return the error to raise for one of the system's. `what` is the sentence's beginning: what could not be done.

    The path is in the log only: an answer names no folder of the service.
    """
    detail = f"{what}: {error.strerror or error}."
    if is_full(error):
        return InsufficientStorage(detail)
    log.error("storage.failed", what=what, path=str(error.filename or ""), error=str(error))
    if error.errno in _EXHAUSTED:
        return ProcessUnavailable(detail, retry_after=5)
    return StorageFailed(detail)
