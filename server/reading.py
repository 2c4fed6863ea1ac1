"""Reads a function's source without running it. A child process: hostile source may end it, not the service.

`python -I -S reading.py` takes the source on stdin and answers one JSON object on stdout: either
{"definitions": [...], "others": [names], "script": text or null} or {"error": code, "message", "line", ...}.
Standard library only.
"""

import ast
import json
import re
import resource
import sys
import tomllib
from collections.abc import Iterator
from typing import Any

MEMORY = 1024 * 1024 * 1024
SECONDS = 5

# The block of inline script metadata, as its specification defines it (PEP 723).
SCRIPT = re.compile(r"(?m)^# /// script$\s(?P<content>(^#(| .*)$\s)+)^# ///$")


def read(source: str) -> dict[str, Any]:
    """What the source defines at its top level."""
    try:
        tree = ast.parse(source)
        script = script_block(source)
        definitions = [n for n in tree.body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
        return {
            "definitions": [definition(node) for node in definitions],
            "others": [name for node in tree.body for name in other_names(node)],
            "script": script,
        }
    except SyntaxError as error:
        if error.lineno is None:
            return {"error": "source_unparsable", "message": error.msg}
        return {
            "error": "syntax_error",
            "message": error.msg,
            "line": error.lineno,
            "column": error.offset,
            "text": (error.text or "").rstrip()[:200],
        }
    except (ValueError, RecursionError, MemoryError) as error:
        return {"error": "source_unparsable", "message": str(error)[:200] or type(error).__name__}


def definition(node: ast.FunctionDef | ast.AsyncFunctionDef) -> dict[str, Any]:
    """One function as written."""
    return {
        "name": node.name,
        "line": node.lineno,
        "doc": ast.get_docstring(node),
        "signature": signature(node),
        "parameters": list(parameters(node.args)),
    }


def signature(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """`name(parameters) -> type`, as people write it."""
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    prefix = "async " if isinstance(node, ast.AsyncFunctionDef) else ""
    return f"{prefix}{node.name}({', '.join(written(node.args))}){returns}"


def written(arguments: ast.arguments) -> Iterator[str]:
    """Each parameter as text, with the marks between them."""
    for index, (argument, default) in enumerate(with_defaults(arguments)):
        yield one_written(argument, default)
        if index + 1 == len(arguments.posonlyargs):
            yield "/"
    if arguments.vararg:
        yield "*" + one_written(arguments.vararg, None)
    elif arguments.kwonlyargs:
        yield "*"
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        yield one_written(argument, default)
    if arguments.kwarg:
        yield "**" + one_written(arguments.kwarg, None)


def one_written(argument: ast.arg, default: ast.expr | None) -> str:
    """`name: type = default`."""
    typed = f"{argument.arg}: {ast.unparse(argument.annotation)}" if argument.annotation else argument.arg
    if default is None:
        return typed
    return f"{typed}{' = ' if argument.annotation else '='}{ast.unparse(default)}"


def with_defaults(arguments: ast.arguments) -> list[tuple[ast.arg, ast.expr | None]]:
    """The positional parameters, each with its default."""
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
    return list(zip(positional, defaults, strict=True))


def parameters(arguments: ast.arguments) -> Any:
    """Each parameter with its kind, and whether its type and a constant default are written."""
    for index, (argument, default) in enumerate(with_defaults(arguments)):
        kind = "positional-only" if index < len(arguments.posonlyargs) else "named"
        yield parameter(argument, kind, default)
    if arguments.vararg:
        yield parameter(arguments.vararg, "*args", None)
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        yield parameter(argument, "named", default)
    if arguments.kwarg:
        yield parameter(arguments.kwarg, "**kwargs", None)


def parameter(argument: ast.arg, kind: str, default: ast.expr | None) -> dict[str, Any]:
    """One parameter."""
    computed = default is not None and any(isinstance(n, (ast.Call, ast.Await)) for n in ast.walk(default))
    return {
        "name": argument.arg,
        "kind": kind,
        "typed": argument.annotation is not None,
        "optional": default is not None,
        "computed_default": computed,
    }


def other_names(node: ast.stmt) -> list[str]:
    """Names that a top-level statement binds to something else than a function."""
    match node:
        case ast.ClassDef():
            return [node.name]
        case ast.Assign(targets=targets):
            return [t.id for t in targets if isinstance(t, ast.Name)]
    return []


def script_block(source: str) -> dict[str, Any] | None:
    """The `script` block's TOML, or None. Raises SyntaxError where it is not TOML, or there are two."""
    source = source.replace("\r\n", "\n")
    blocks = list(SCRIPT.finditer(source))
    if not blocks:
        return None
    line = source.count("\n", 0, blocks[-1].start()) + 1
    if len(blocks) > 1:
        raise SyntaxError("there are two `# /// script` blocks", ("", line, 1, "# /// script"))
    lines = blocks[0]["content"].splitlines()
    text = "\n".join(row[2:] if row.startswith("# ") else row[1:] for row in lines)
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SyntaxError(f"in the script block: {error}", ("", line, 1, "# /// script")) from error


def main() -> None:
    """Limit ourselves, then read."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    source = sys.stdin.buffer.read().decode("utf-8")
    sys.stdout.write(json.dumps(read(source), default=str))


if __name__ == "__main__":
    main()
