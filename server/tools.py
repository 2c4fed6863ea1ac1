"""The tool definitions that models see, rendered from registered functions in the format that each service takes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

from server.schemas import definition, without
from server.strict import NotStrict, to_strict

if TYPE_CHECKING:
    from server.functions import Function
    from server.registry import Version

Format = Literal["openai", "openai-responses", "legacy-functions", "anthropic", "mcp", "json-schema", "prompt"]
FORMATS: tuple[Format, ...] = get_args(Format)
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def render(versions: Iterable[Version], format: Format, *, strict: bool) -> list[dict[str, Any]] | str:  # noqa: A002
    """The tools in one format, in the order given; `prompt` is text, all others are lists.

    strict asks for the strict form where a format has one; a function without a strict form is given as it is.
    """
    functions = [version.function for version in versions]
    if format == "prompt":
        return "\n\n".join(map(_section, functions))
    return [_RENDERERS[format](function, strict) for function in functions]


def as_seen(function: Function) -> dict[str, Any]:
    """The schema of the arguments that a model gives: without the bound ones. Always an object with properties."""
    seen = without(function.parameters, function.bound)
    return {**seen, "type": "object", "properties": seen.get("properties", {})}


def not_strict(function: Function) -> str | None:
    """Why a function has no strict form, a sentence; None if it has one."""
    try:
        to_strict(as_seen(function))
    except NotStrict as reason:
        return str(reason)
    return None


def description_of(function: Function) -> str:
    """What a model is told that a function does: the author's words, or the signature."""
    return function.declared.description or function.description or function.signature


def _plain(function: Function) -> dict[str, Any]:
    return {"name": function.name, "description": description_of(function)}


def _parameters(function: Function, strict: bool) -> tuple[dict[str, Any], bool]:
    """The parameters, and whether they are in strict form."""
    seen = as_seen(function)
    if strict:
        try:
            return to_strict(seen), True
        except NotStrict:
            pass
    return seen, False


def _openai(function: Function, strict: bool) -> dict[str, Any]:
    parameters, is_strict = _parameters(function, strict)
    said = {"strict": is_strict} if strict else {}
    return {"type": "function", "function": {**_plain(function), "parameters": parameters, **said}}


def _responses(function: Function, strict: bool) -> dict[str, Any]:
    """strict is always said: left out, the service would make the schema strict by itself."""
    parameters, is_strict = _parameters(function, strict)
    return {"type": "function", **_plain(function), "parameters": parameters, "strict": is_strict}


def _legacy(function: Function, _: bool) -> dict[str, Any]:
    responses = {"responses": dict(_returns(function))} if _returns(function) else {}
    return {**_plain(function), "parameters": as_seen(function), **responses}


def _anthropic(function: Function, _: bool) -> dict[str, Any]:
    return {**_plain(function), "input_schema": as_seen(function)}


def _mcp(function: Function, _: bool) -> dict[str, Any]:
    output = {"outputSchema": structured(_returns(function))} if _returns(function) else {}
    # Without the first hint, clients take a tool for destructive; the second has no meaning beside a true first.
    reads = function.effects == "read"
    hints = {"readOnlyHint": True} if reads else {"readOnlyHint": False, "destructiveHint": True}
    return {**_plain(function), "inputSchema": as_seen(function), **output, "annotations": hints}


def _json_schema(function: Function, _: bool) -> dict[str, Any]:
    own = {"title": function.name, "description": description_of(function)}
    return {"$schema": DIALECT, **as_seen(function), **own}


_RENDERERS: Mapping[str, Callable[[Function, bool], dict[str, Any]]] = {
    "openai": _openai,
    "openai-responses": _responses,
    "legacy-functions": _legacy,
    "anthropic": _anthropic,
    "mcp": _mcp,
    "json-schema": _json_schema,
}


def _returns(function: Function) -> Mapping[str, Any]:
    return function.declared.returns or function.returns


def structured(returns: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a result as an object: one that is none stands under `result`."""
    if returns.get("type") == "object":
        return dict(returns)
    result = {key: value for key, value in returns.items() if key != "$defs"}
    shared = {"$defs": returns["$defs"]} if "$defs" in returns else {}
    return {"type": "object", "properties": {"result": result}, "required": ["result"], **shared}


# -- plain text


def _section(function: Function) -> str:
    return section(function.name, description_of(function), as_seen(function), _returns(function))


def section(name: str, description: str, parameters: Mapping[str, Any], returns: Mapping[str, Any] = {}) -> str:
    """One tool in words. A line of a description cannot pass for the heading of another tool."""
    said = description.strip().splitlines()
    lines = [f"### Tool: {name}", *(f"    {line}" if line.lstrip().startswith("#") else line for line in said)]
    members = [*_members(parameters, "- "), *_definitions(parameters)]
    lines += ["", "Parameters:", *members] if members else ["", "Parameters: none"]
    if returns:
        lines += ["", f"Returns: {_type(returns)}{_facts(returns)}", *_members(returns, "- "), *_definitions(returns)]
    return "\n".join(lines)


def _definitions(schema: Mapping[str, Any]) -> Iterator[str]:
    """What the names of recursive types mean."""
    for name, shape in schema.get("$defs", {}).items():
        yield f"- {_line(name)} means: {_type(shape)}{_facts(shape)}"
        yield from _members(shape, "  - ")


def _members(schema: Any, lead: str) -> Iterator[str]:
    """A line for each member of an object, those within it indented; lists, maps and choices are looked through."""
    if not isinstance(schema, Mapping) or len(lead) > _DEEPEST:
        return
    required = schema.get("required", ())
    for name, part in schema.get("properties", {}).items():
        need = "required" if name in required else "optional"
        yield f"{lead}{_line(name)}: {_type(part)}, {need}{_facts(part)}"
        yield from _members(part, f"  {lead}")
    for part in [schema.get("items"), schema.get("additionalProperties"), *schema.get("allOf", ())]:
        yield from _members(part, lead)
    forms = [list(_members(part, lead)) for part in (*schema.get("anyOf", ()), *schema.get("oneOf", ()))]
    forms = [form for form in forms if form]
    for form in forms:
        if len(forms) > 1:
            yield f"{lead[:-2]}{'with' if form is forms[0] else 'or with'}"
        yield from form


_DEEPEST = 40


def _type(schema: Any) -> str:
    """The type of a value in a few words."""
    if not isinstance(schema, Mapping):
        return "anything" if schema is not False else "nothing"
    if (name := definition(schema)) is not None:
        return _line(name)
    for keyword, word in (("anyOf", " or "), ("oneOf", " or "), ("allOf", " and ")):
        if keyword in schema:
            return word.join(dict.fromkeys(_type(part) for part in schema[keyword]))
    types = schema.get("type", "object" if "properties" in schema else "anything")
    if "enum" in schema or "const" in schema:
        return _values(schema)
    return " or ".join(_named(name, schema) for name in ([types] if isinstance(types, str) else types))


def _named(name: str, schema: Mapping[str, Any]) -> str:
    if name == "array":
        if "prefixItems" in schema:
            return f"list of {', '.join(map(_type, schema['prefixItems']))} in this order"
        return f"list of {_type(schema['items'])}" if schema.get("items") else "list"
    if name == "object" and isinstance(schema.get("additionalProperties"), Mapping):
        return f"object with values of type {_type(schema['additionalProperties'])}"
    return f"{name} ({schema['format']})" if name == "string" and "format" in schema else name


def _values(schema: Mapping[str, Any]) -> str:
    values = schema.get("enum", [schema.get("const")])
    return ("one of " if len(values) > 1 else "") + ", ".join(_json(value) for value in values)


_BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "more than {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "less than {}",
    "multipleOf": "a multiple of {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
    "pattern": "matching {}",
}


def _facts(schema: Any) -> str:
    """Limits, default and text of a value, to follow its type."""
    if not isinstance(schema, Mapping):
        return "."
    branches = [part for part in schema.get("anyOf", ()) if isinstance(part, Mapping) and part.get("type") != "null"]
    bounds = {**branches[0], **schema} if len(branches) == 1 else schema
    facts = [", " + words.format(_json(bounds[key])) for key, words in _BOUNDS.items() if key in bounds]
    if "default" in schema:
        facts.append(f", default {_json(schema['default'])}")
    text = _line(str(schema.get("description", "")))
    return "".join(facts) + "." + (f" {text}" if text else "")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _line(text: str) -> str:
    return " ".join(text.split())
