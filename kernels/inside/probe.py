"""Does each function import here, and what are its parameters? Run by a generation's own Python.

Reads one JSON object from stdin: {"snapshot": folder, "names": [...], "describe": [...], "warm": [...]}.
Writes JSON lines: {"importing": name} before each import, so that a death has a culprit; then
{"failed": name, "ename", "evalue", "module", "traceback"} or {"imported": name}; for those to describe
{"schema": name, "parameters": JSON Schema} or {"unfit": name, "parameter", "annotation", "reason"};
{"done": true} last. What the imported code prints goes to stderr.
"""

import importlib
import inspect
import json
import os
import resource
import sys
import traceback
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGE = "aigbb_functions"


def main() -> None:
    """Answer one request, then leave at once: threads that an import started have no say."""
    request = json.loads(sys.stdin.buffer.read())
    channel = os.dup(1)
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    snapshot = Path(request["snapshot"])
    os.environ.update(json.loads((snapshot / "environment.json").read_text(encoding="utf-8")))
    sys.path[0] = str(snapshot)
    for name in request["warm"]:
        warm(name)
    sys.modules[PACKAGE] = lazy_package(snapshot / PACKAGE)
    for name in request["names"]:
        say(channel, {"importing": name})
        say(channel, check(name))
        if name in request["describe"] and f"{PACKAGE}.{name}" in sys.modules:
            say(channel, describe(name))
    say(channel, {"done": True})
    os._exit(0)


class Package(ModuleType):
    """The name of a function's file stays the function's when Python would bind the module to it."""

    def __setattr__(self, name: str, value: object) -> None:
        if not isinstance(value, ModuleType):
            super().__setattr__(name, value)


def lazy_package(folder: Path) -> ModuleType:
    """The package without its own __init__, which imports every function: here each is tried by itself."""
    package = Package(PACKAGE)
    package.__path__ = [str(folder)]
    package.__dict__["__getattr__"] = lambda name: getattr(importlib.import_module(f"{PACKAGE}.{name}"), name)
    return package


def say(channel: int, line: dict[str, Any]) -> None:
    """One JSON line to the service."""
    data = json.dumps(line).encode() + b"\n"
    while data:
        data = data[os.write(channel, data) :]


def warm(name: str) -> None:
    """Import a default package, so that its bytecode and caches are there before somebody waits for them."""
    try:
        importlib.import_module(name)
    except ImportError as error:
        print(f"{name} is not available: {error}", file=sys.stderr)


def check(name: str) -> dict[str, Any]:
    """Import one function."""
    try:
        function = getattr(importlib.import_module(f"{PACKAGE}.{name}"), name)
        if not callable(function):
            raise TypeError(f"{name} is {type(function).__name__}, not a function, once the file has run")
    except BaseException as error:
        sys.modules.pop(f"{PACKAGE}.{name}", None)
        return {
            "failed": name,
            "ename": type(error).__name__,
            "evalue": text_of(error),
            "module": error.name if isinstance(error, ModuleNotFoundError) else None,
            "traceback": frames(error, name),
        }
    return {"imported": name}


def text_of(error: BaseException) -> str:
    """str(error), whatever its __str__ does."""
    try:
        return str(error)[:2000]
    except BaseException:
        return "(the error has no text)"


def frames(error: BaseException, name: str) -> list[str]:
    """The author's own lines of the traceback, with paths that mean something to the author."""
    if isinstance(error, SyntaxError):
        return [f"line {error.lineno}: {(error.text or '').strip()}"]
    own = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.endswith(f"{PACKAGE}/{name}.py")]
    return [f"line {f.lineno}, in {f.name}: {f.line}" for f in own]


def describe(name: str) -> dict[str, Any]:
    """The JSON Schema of one function's parameters, as one object, or why there is none."""
    from pydantic import TypeAdapter

    function = getattr(sys.modules[f"{PACKAGE}.{name}"], name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            schema = TypeAdapter(function).json_schema()
            json.dumps(schema)
    except Exception as error:
        parameter, annotation = culprit(function)
        reason = f"{type(error).__name__}: {text_of(error).partition(chr(10))[0][:300]}"
        return {"unfit": name, "parameter": parameter, "annotation": annotation, "reason": reason}
    return {"schema": name, "parameters": schema}


def culprit(function: Any) -> tuple[str | None, str | None]:
    """The first parameter that has no schema by itself."""
    from pydantic import TypeAdapter

    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return None, None
    for parameter in parameters.values():
        if parameter.annotation is parameter.empty:
            continue
        try:
            annotation = eval_annotation(parameter.annotation, function)
            TypeAdapter(annotation).json_schema()
        except Exception:
            return parameter.name, str(parameter.annotation)
    return None, None


def eval_annotation(annotation: Any, function: Any) -> Any:
    """An annotation that is text, read in the module that defines the function."""
    return eval(annotation, dict(function.__globals__)) if isinstance(annotation, str) else annotation  # noqa: S307


if __name__ == "__main__":
    main()
