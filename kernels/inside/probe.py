"""Does each function import here, and what is its contract? Run by a generation's own Python.

Reads one JSON object from stdin: {"snapshot": folder, "names": [...], "describe": {name: {"parameters": [as
written], "declared": bool}}, "imports": {name: [modules]}, "secrets": {name: {variable: value}}}; or, to import
packages and leave their bytecode in a folder, {"snapshot", "needed": [modules], "used": [modules], "bytecode": folder}.
Secrets are in the environment while their function is looked at, which comes after those that have none.
Writes JSON lines: {"importing": name} before each import, so that a death has a culprit; then
{"failed": name, "ename", "evalue", "module", "traceback"} or {"imported": name}; {"broken": module, "ename",
"evalue"} for what could not be warmed; for those to describe
{"contract": name, "parameters", "returns", "hidden", "signature"}, or {"unfit": name, "parameter", "annotation",
"reason", "unresolved"}; {"done": true} last. What the imported code prints goes to stderr.
"""

import importlib
import importlib.util
import json
import os
import resource
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

from . import confine, fonts
from .package import PACKAGE, Package


def main() -> None:
    """Answer one request, then leave at once: threads that an import started have no say."""
    request = json.loads(sys.stdin.buffer.read())
    channel = os.dup(1)
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    confine.apply(confine.take(os.environ))
    snapshot = Path(request["snapshot"])
    os.environ.update(json.loads((snapshot / "environment.json").read_text(encoding="utf-8")))
    if "bytecode" in request:
        warm(channel, request)
    else:
        look(channel, request, snapshot)
    os._exit(0)


def look(channel: int, request: Mapping[str, Any], snapshot: Path) -> None:
    """Import functions, and describe them."""
    fonts.provide()
    package = Package()
    package.__show__(snapshot, {path.stem for path in (snapshot / PACKAGE).glob("*.py")} - {"__init__"}, ())
    secrets = request["secrets"]
    for name in sorted(request["names"], key=secrets.__contains__):
        with given(secrets.get(name, {})):
            say(channel, {"importing": name})
            found = check(package, name, request["imports"].get(name, ()))
            say(channel, found)
            if name in request["describe"] and "imported" in found:
                say(channel, describe(package.__load__(name), name, request["describe"][name]))
    say(channel, {"done": True})


@contextmanager
def given(secrets: Mapping[str, str]) -> Iterator[None]:
    """With these variables, and afterwards as before."""
    before = {name: os.environ.get(name) for name in secrets}
    os.environ.update(secrets)
    yield
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def say(channel: int, line: dict[str, Any]) -> None:
    """One JSON line to the service."""
    data = json.dumps(line).encode() + b"\n"
    while data:
        data = data[os.write(channel, data) :]


def warm(channel: int, request: Mapping[str, Any]) -> None:
    """Import packages, so that their bytecode and caches are there before somebody waits for them.

    Those that are needed are said to be broken if they are; what functions use is their own look's to say.
    """
    collect(Path(request["bytecode"]))
    os.environ[fonts.VARIABLE] = f"{request['bytecode']}/{fonts.FOLDER}"
    fonts.provide()
    for name in request["needed"]:
        if (broken := failure(name)) is not None:
            say(channel, broken)
    say(channel, {"done": True})
    for name in request["used"]:
        failure(name)


def failure(name: str) -> dict[str, Any] | None:
    """Why a module does not import; None if it does, or is not installed."""
    try:
        importlib.import_module(name)
    except BaseException as error:
        if isinstance(error, ModuleNotFoundError) and error.name == name.partition(".")[0]:
            return None
        return {"broken": name, "ename": type(error).__name__, "evalue": text_of(error)}
    return None


def collect(folder: Path) -> None:
    """What Python compiles for this environment goes below `folder`, by the path that it would have here."""
    here = Path(sys.prefix)

    def set_data(_: SourceFileLoader, path: str, data: bytes, *, _mode: int = 0o666) -> None:
        if Path(path).is_relative_to(here):
            target = folder / Path(path).relative_to(here)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)

    SourceFileLoader.set_data = set_data  # type: ignore[assignment,method-assign]


def check(package: Package, name: str, imports: Iterable[str]) -> dict[str, Any]:
    """Import one function, and look for the modules that it imports when it runs."""
    try:
        package.__load__(name)
        for module in imports:
            if is_missing(module):
                raise ModuleNotFoundError(f"No module named {module!r}", name=module)
    except BaseException as error:
        return {
            "failed": name,
            "ename": type(error).__name__,
            "evalue": text_of(error),
            "module": error.name if isinstance(error, ModuleNotFoundError) else None,
            "traceback": frames(error, name),
        }
    return {"imported": name}


def is_missing(module: str) -> bool:
    """Whether a top-level module is not there. It is not imported; where the search fails, it may be there."""
    try:
        return importlib.util.find_spec(module) is None
    except Exception:
        return False


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


def describe(function: Any, name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """One function's contract, or why there is none. An author who declares it is not asked for types."""
    # After the functions' own imports: those that only run need not wait for pydantic.
    from .contract import Contract, Unfit

    try:
        contract = Contract(function, spec["parameters"], declared=spec["declared"])
        parameters = contract.parameters()
    except Unfit as error:
        if spec["declared"]:
            return {"contract": name, "parameters": {}, "returns": {}, "hidden": False, "signature": ""}
        told = {"parameter": error.parameter, "annotation": error.annotation, "unresolved": error.unresolved}
        return {"unfit": name, "reason": text_of(error), **told}
    return {
        "contract": name,
        "parameters": parameters,
        "returns": contract.returns(),
        "hidden": contract.hidden,
        "signature": contract.shown(name),
    }
