"""Reads functions' sources without running them. A child process: hostile source may end it, not the service.

`python -I -S reading.py PACKAGES` takes a JSON list of sources on stdin and answers on stdout: a line when it begins,
then one of objects, each {"definitions": [...], "others": [names], "imports": [modules], "changes": [lines and names],
"script": text or null} or {"error": code, "message", "line", ...}. PACKAGES is the folder with docstring_parser; all
else is the standard library and FILES of the service.
"""

import ast
import json
import re
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
if __package__ in (None, ""):  # a program, whose own folder Python leaves out
    sys.path.append(str(HERE.parent))
from server import effects  # noqa: E402

# All that the program reads besides Python and docstring_parser.
FILES = tuple(HERE / f"{name}.py" for name in ("__init__", "reading", "effects", "origins", "blocks", "allowlist"))

MEMORY = 1024 * 1024 * 1024
SECONDS = 5
PACKAGE = "aigbb_functions"  # as functions import each other
# A longer docstring is one description: reading its sections takes time that grows with the square.
DOCUMENTED = 16 * 1024

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
            "imports": sorted(set(imports(tree))),
            "changes": effects.changes(source, tree),
            "uses": uses(tree),
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
        **documented(ast.get_docstring(node) or ""),
        "signature": signature(node),
        "parameters": list(parameters(node.args)),
    }


def documented(text: str) -> dict[str, Any]:
    """What a docstring says of the function, of each parameter, and of the result (Google, NumPy, Sphinx styles)."""
    plain = {"description": text, "texts": {}, "result": ""}
    if not text or len(text) > DOCUMENTED:
        return plain
    import docstring_parser

    try:
        parsed = docstring_parser.parse(text)
    except docstring_parser.ParseError:
        return plain
    texts = {p.arg_name.lstrip("*"): p.description for p in parsed.params if p.description}
    result = parsed.returns.description if parsed.returns else None
    return {"description": parsed.description or "", "texts": texts, "result": result or ""}


def imports(node: ast.AST) -> Iterator[str]:
    """The top-level modules that are imported whatever happens: not under a condition, not inside `try`."""
    match node:
        case ast.Import():
            yield from (alias.name.partition(".")[0] for alias in node.names)
        case ast.ImportFrom(level=0, module=str(module)):
            yield module.partition(".")[0]
        case ast.If() | ast.Try() | ast.TryStar():
            return
    for child in ast.iter_child_nodes(node):
        yield from imports(child)


def uses(tree: ast.AST) -> list[str]:
    """Return every identifier of a source that imports registered functions; they may be names of those."""
    nodes = list(ast.walk(tree))
    return sorted({name for node in nodes for name in identifiers(node)}) if any(map(imports_functions, nodes)) else []


def imports_functions(node: ast.AST) -> bool:
    """Whether a statement imports the package of registered functions, or a part of it."""
    match node:
        case ast.Import(names=names):
            return any(alias.name.partition(".")[0] == PACKAGE for alias in names)
        case ast.ImportFrom(level=level, module=module):
            return level > 0 or (module or "").partition(".")[0] == PACKAGE
    return False


def identifiers(node: ast.AST) -> Iterator[str]:
    """Yield the identifiers that a node by itself has."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            yield name
        case ast.Import(names=names):
            yield from (part for alias in names for part in alias.name.split("."))
        case ast.ImportFrom(module=module, names=names):
            yield from (module or "").split(".")
            yield from (alias.name for alias in names)


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
    computed = default is not None and not is_field(default) and any(map(is_computed, ast.walk(default)))
    return {
        "name": argument.arg,
        "kind": kind,
        "typed": argument.annotation is not None,
        "optional": default is not None,
        "computed_default": computed,
    }


def is_computed(node: ast.AST) -> bool:
    """Whether a part of a default may have another value each time."""
    return isinstance(node, (ast.Call, ast.Await))


def is_field(default: ast.expr) -> bool:
    """Whether a default is pydantic's way to describe one."""
    return isinstance(default, ast.Call) and ast.unparse(default.func).rpartition(".")[2] == "Field"


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
    import tomllib

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SyntaxError(f"in the script block: {error}", ("", line, 1, "# /// script")) from error


def main() -> None:
    """Limit ourselves, then read."""
    sys.path.append(sys.argv[1])
    import docstring_parser  # noqa: F401  # before we wait for what there is to read

    sources = json.loads(sys.stdin.buffer.read())
    seconds = SECONDS + len(sources) // 20
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    sys.stdout.write("reading\n")  # from here on, what ends this process is a source
    sys.stdout.flush()
    sys.stdout.write(json.dumps([read(source) for source in sources], default=str))


if __name__ == "__main__":
    main()
