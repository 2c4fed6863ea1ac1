"""A kernel's messages as items of a stream. What comes from a kernel is untrusted: all text is made valid Unicode, all
data valid JSON, here."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Literal

from kernels.outputs import Bundle, Clear, Cut, Display, Error, Output, Refused, Result, Returned, Stream


def from_message(kind: str, content: Mapping[str, Any]) -> Output | None:
    """A kernel's IOPub message as an item, or None for one that shows nothing."""
    match kind:
        case "stream":
            name: Literal["stdout", "stderr"] = "stderr" if content.get("name") == "stderr" else "stdout"
            return Stream(name, clean(content.get("text")))
        case "display_data" | "update_display_data":
            transient = content.get("transient")
            identity = transient.get("display_id") if isinstance(transient, dict) else None
            return Display(*_bundles(content), clean(identity) if identity else None, kind == "update_display_data")
        case "execute_result":
            count = content.get("execution_count")
            return Result(*_bundles(content), count if isinstance(count, int) else None)
        case "error":
            return _error(content)
        case "clear_output":
            return Clear()
    return None


def left_out(kind: str, size: int) -> Output | None:
    """What stands for an IOPub message that is too large to be read, or None for one that shows nothing."""
    note = f"[{kind}: a message of {size:,} bytes left out]"
    match kind:
        case "stream":
            return Stream("stdout", note + "\n")
        case "display_data" | "update_display_data":
            return Display({"text/plain": note}, {})
        case "execute_result":
            return Result({"text/plain": note}, {})
        case "error":
            return Error("Error", note, ())
    return None


def from_call(reply: Mapping[str, Any]) -> Returned | Refused | None:
    """A kernel's answer to a call, or None where the function raised."""
    match reply:
        case {"status": "ok", "content": content}:
            version, lost = reply.get("version"), "result" not in reply
            number = version if isinstance(version, int) else 0
            return Returned(clean_json(reply.get("result")), clean(content), number, _cut(reply.get("cut")), lost)
        case {"status": "refused", "errors": list(errors)}:
            kept = [clean_json(error) for error in errors[:100] if isinstance(error, dict)]
            return Refused(tuple(kept))
    return None


# More than any text can have: what code in a kernel forges must be a number that can be printed.
_MOST = 10**12


def _cut(told: Any) -> Cut | None:
    match told:
        case {"tail": tail, "left_out": int(left_out)}:
            return Cut(clean(tail), min(max(0, left_out), _MOST))
    return None


def _bundles(content: Mapping[str, Any]) -> tuple[Bundle, Bundle]:
    data, metadata = content.get("data"), content.get("metadata")
    return (
        {clean(k): clean_json(v) for k, v in data.items()} if isinstance(data, dict) else {},
        clean_json(metadata) if isinstance(metadata, dict) else {},
    )


# Deeper JSON is legal, but not everything that reads it later takes it.
MAX_DEPTH = 100
_SURROGATE = re.compile("[\ud800-\udfff]")
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_OWN_FILE = re.compile(r"/(aigbb_functions/[A-Za-z0-9_]+\.py)")
_FRAME = re.compile(r"^(?:File|Cell In|Input In) ?\S*")


def _error(content: Mapping[str, Any]) -> Error:
    lines = content.get("traceback")
    entries = [strip_ansi(clean(line)) for line in lines] if isinstance(lines, list) else []
    entries = [entry for entry in entries if entry.strip("-")]
    kept = tuple(_shortened(entry) for entry in entries if _is_own(entry))
    return Error(
        clean(content.get("ename")) or "Error",
        strip_ansi(clean(content.get("evalue"))),
        kept,
        len(entries) - len(kept),
    )


def _shortened(entry: str) -> str:
    """With paths of functions' files from their package on. Looks at each character once: it may be a long text."""
    *parts, rest = _OWN_FILE.split(entry)
    parts[::2] = map(_without_path, parts[::2])
    return "".join((*parts, rest))


def _without_path(text: str) -> str:
    """Text up to where the path begins that it ends with."""
    line = text.rfind("\n") + 1
    if text.startswith("File ", line):
        return text[: line + len("File ")]
    return text if text[-1:].isspace() else text[: len(text) - len("".join(text.rsplit(None, 1)[-1:]))]


def _is_own(entry: str) -> bool:
    """Frames of the caller's cell and of registered functions stay; library frames go."""
    if not _FRAME.match(entry):
        return True
    first = entry.split("\n", 1)[0]
    return not first.startswith("File") or bool(_OWN_FILE.search(first))


def strip_ansi(text: str) -> str:
    """Without terminal colours and commands."""
    return _ANSI.sub("", text)


def clean(value: object) -> str:
    """Valid Unicode text of anything: lone surrogates become U+FFFD."""
    text = value if isinstance(value, str) else "" if value is None else str(value)
    return text if text.isascii() else _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)


def clean_json(value: Any, depth: int = MAX_DEPTH) -> Any:
    """The same for a JSON value; NaN and infinities become null, and what is nested deeper is left out."""
    match value:
        case str():
            return clean(value)
        case float():
            return value if math.isfinite(value) else None
        case dict() | list() if depth == 0:
            return "…"
        case dict():
            return {clean(k): clean_json(v, depth - 1) for k, v in value.items()}
        case list():
            return [clean_json(v, depth - 1) for v in value]
    return value
