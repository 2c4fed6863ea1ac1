"""JSON Schemas of arguments: made public, cut, checked, and held against arguments. Pure functions, no I/O."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from graphlib import TopologicalSorter
from typing import Any
from urllib.parse import unquote

import jsonschema_rs

from kernels.suggestions import suggestions
from server.errors import InvalidSchema
from server.validation_work import MAX_LISTED, MAX_WORK, count_values, list_errors

MAX_SIZE = 64 * 1024
MAX_DEPTH = 50
# Schemas that pydantic made are trusted further than those that somebody wrote.
MAX_INFERRED_DEPTH = 100
MAX_EXPANSION = 1024 * 1024
MAX_DEFINITIONS = 500
MAX_NAME = 64
MAX_MESSAGE = 300
MAX_ERRORS = 20

DEFINITIONS = "#/$defs/"
_ONE = frozenset(
    {
        "additionalItems",
        "additionalProperties",
        "contains",
        "contentSchema",
        "else",
        "if",
        "items",
        "not",
        "propertyNames",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
    }
)
_LISTS = frozenset({"allOf", "anyOf", "items", "oneOf", "prefixItems"})
_NAMED = frozenset({"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"})
_NOTES = frozenset({"$comment", "default", "deprecated", "description", "examples", "title"})
# Assertions that mean the same beside a definition as within it.
_ALONE = re.compile(r"(exclusive)?(min|max)\w*|format|multipleOf|pattern|uniqueItems", re.IGNORECASE)
_MOVING = frozenset({"$anchor", "$dynamicAnchor", "$dynamicRef", "$id", "$recursiveAnchor", "$recursiveRef"})
# What could refuse more once references within it are forgotten.
_TURNING = frozenset({"contains", "else", "if", "not", "oneOf", "then", "unevaluatedItems", "unevaluatedProperties"})


# -- walking: which member of a schema is a schema, and which a map of names


def walk(schema: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Each object schema in a schema with its path, itself first. `true` and `false` are passed over."""
    if isinstance(schema, dict):
        yield path, schema
        for step, child in _children(schema):
            yield from walk(child, path + step)


def _children(schema: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in schema.items():
        if key in _NAMED and isinstance(value, dict):
            yield from (((key, name), child) for name, child in value.items())
        elif key in _LISTS and isinstance(value, list):
            yield from (((key, str(index)), child) for index, child in enumerate(value))
        elif key in _ONE:
            yield (key,), value


def mapped(schema: Mapping[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    """A copy of a schema, with `change` applied to the schemas directly in it."""
    result = dict(schema)
    for key, value in schema.items():
        if key in _NAMED and isinstance(value, dict):
            result[key] = {name: change(child) for name, child in value.items()}
        elif key in _LISTS and isinstance(value, list):
            result[key] = [change(child) for child in value]
        elif key in _ONE:
            result[key] = change(value)
    return result


def definition(schema: Mapping[str, Any]) -> str | None:
    """The name of the definition that a schema refers to, if it refers to one: `#/$defs/NAME`."""
    ref = schema.get("$ref")
    if not isinstance(ref, str) or not ref.startswith(DEFINITIONS):
        return None
    name = ref.removeprefix(DEFINITIONS)
    return None if "/" in name else unquote(name).replace("~1", "/").replace("~0", "~")


def _references(schema: Any) -> list[str]:
    names = (definition(node) for _, node in walk(schema))
    return [name for name in names if name is not None]


def _depth(value: Any) -> int:
    """How deep lists and objects are nested."""
    depth, level = 0, [value]
    while level := [child for item in level if isinstance(item, (dict, list)) for child in _members(item)]:
        depth += 1
        if depth > MAX_INFERRED_DEPTH:
            break
    return depth


def _members(item: dict[str, Any] | list[Any]) -> Collection[Any]:
    return item.values() if isinstance(item, dict) else item


# -- making public


def compose(raw: Any, docs: Mapping[str, str]) -> dict[str, Any]:
    """The public schema of a function's arguments. Raises InvalidSchema for what is no object schema.

    raw is what pydantic gives, docs has a text per parameter.
    """
    if not isinstance(raw, dict) or _depth(raw) > MAX_INFERRED_DEPTH:
        raise InvalidSchema("The schema of the arguments is no object, or is nested too deeply.", path="")
    _check_meta(lambda: jsonschema_rs.meta.validate(_body(raw)))
    documented = {n: _documented(schema, docs.get(n, "")) for n, schema in raw.get("properties", {}).items()}
    return inline({**raw, "properties": documented})


def _documented(schema: Any, text: str) -> Any:
    if not isinstance(schema, dict):
        return {"description": text} if text and schema is True else schema
    return {"description": text, **schema} if text else schema


def inline(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with references to definitions replaced by them. Recursive definitions stay in `$defs`.

    Where that would be over 64 KiB or too deep, every reference stays.
    """
    definitions = _definitions(schema)
    body = {key: value for key, value in schema.items() if key not in ("$defs", "$schema")}
    replaced = _replaceable(body, definitions)

    def expand(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        result = mapped(node, expand)
        result.pop("discriminator", None)  # it points at definitions by name
        if definition(node) not in replaced:
            return result
        del result["$ref"]
        return _merge(expand(definitions[str(definition(node))]), result)

    kept = {name: value for name, value in definitions.items() if name not in replaced}
    expanded = {"$defs": {name: expand(value) for name, value in kept.items()}} if kept else {}
    return _pruned({**expand(body), **expanded})


def _merge(target: Any, beside: dict[str, Any]) -> Any:
    """A definition, and what stood beside the reference to it."""
    if not beside:
        return target
    if isinstance(target, dict) and all(key in _NOTES or _stands_alone(key, target) for key in beside):
        return {**target, **beside}
    return {**beside, "allOf": [target, *beside.get("allOf", [])]}


def _stands_alone(key: str, target: Mapping[str, Any]) -> bool:
    return key not in target and _ALONE.fullmatch(key) is not None


def _definitions(schema: Mapping[str, Any]) -> dict[str, Any]:
    found = schema.get("$defs")
    return dict(found) if isinstance(found, dict) else {}


def _replaceable(body: Any, definitions: Mapping[str, Any]) -> frozenset[str]:
    """The definitions that references are replaced by: all that are not recursive, or none if that is too much."""
    if len(definitions) > MAX_DEFINITIONS:
        return frozenset()
    recursive = _recursive(definitions)
    size, depth = _expansion([body, *(definitions[name] for name in recursive)], definitions, recursive)
    fits = size <= MAX_SIZE and depth <= MAX_INFERRED_DEPTH
    return frozenset(definitions.keys() - recursive) if fits else frozenset()


def _recursive(definitions: Mapping[str, Any]) -> frozenset[str]:
    """Those that lead back to themselves."""
    graph = {name: set(_references(value)) & definitions.keys() for name, value in definitions.items()}
    return frozenset(name for name in graph if name in _reached(graph[name], graph))


def _reached(start: Collection[str], graph: Mapping[str, Collection[str]]) -> set[str]:
    found, waiting = set(start), list(start)
    while waiting:
        fresh = set(graph.get(waiting.pop(), ())) - found
        found |= fresh
        waiting += fresh
    return found


def _expansion(schemas: list[Any], definitions: Mapping[str, Any], recursive: Collection[str]) -> tuple[int, int]:
    """Characters and depth of some schemas, were all references replaced that do not lead to recursive definitions."""
    flat = {name: _references(value) for name, value in definitions.items() if name not in recursive}
    order = TopologicalSorter({name: [r for r in refs if r in flat] for name, refs in flat.items()}).static_order()
    sizes: dict[str, tuple[int, int]] = {}
    for name in order:
        sizes[name] = _extent(definitions[name], sizes)
    extents = [_extent(schema, sizes) for schema in schemas]
    return sum(size for size, _ in extents), max(depth for _, depth in extents)


def _extent(schema: Any, sizes: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
    inner = [sizes[name] for name in _references(schema) if name in sizes]
    size = len(json.dumps(schema)) + sum(size for size, _ in inner)
    return size, _depth(schema) + max((depth for _, depth in inner), default=0)


def _pruned(schema: dict[str, Any]) -> dict[str, Any]:
    """Without the definitions that nothing refers to."""
    definitions = _definitions(schema)
    body = {key: value for key, value in schema.items() if key != "$defs"}
    graph = {name: _references(value) for name, value in definitions.items()}
    used = _reached(_references(body), graph)
    kept = {name: value for name, value in definitions.items() if name in used}
    return {**body, "$defs": kept} if kept else body


def without(schema: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """A schema of arguments less some parameters, and less what only they used."""
    result = dict(schema)
    if isinstance(properties := schema.get("properties"), dict):
        result["properties"] = {name: value for name, value in properties.items() if name not in names}
    if required := [name for name in schema.get("required", ()) if name not in names]:
        result["required"] = required
    else:
        result.pop("required", None)
    return _pruned(result)


# -- checking what an author wrote


def check(schema: Any) -> None:
    """Is this a schema that arguments can be described by? Raises InvalidSchema with the path of what is wrong.

    Local references to `$defs` only, at most 64 KiB and 50 levels, patterns of the linear-time kind.
    """
    if not isinstance(schema, dict) or schema.get("type") != "object":
        raise InvalidSchema('The schema does not say `"type": "object"` at its root.', path="")
    if _depth(schema) > MAX_DEPTH or len(json.dumps(schema)) > MAX_SIZE:
        raise InvalidSchema(
            f"The schema is over {MAX_SIZE // 1024} KiB, or nested over {MAX_DEPTH} levels.",
            hint="Describe the outer shape only, and let the function check the rest.",
            path="",
        )
    body = _body(schema)
    _check_meta(lambda: jsonschema_rs.meta.validate(body))
    for path, node in walk(body):
        _check_node(node, path, _definitions(schema))
    _check_meta(lambda: _validator(body))
    _check_growth(body)


def _body(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Without the dialect: it is always Draft 2020-12."""
    return {key: value for key, value in schema.items() if key != "$schema"}


def _check_meta(attempt: Callable[[], object]) -> None:
    try:
        attempt()
    except jsonschema_rs.ValidationError as error:
        path = [str(step) for step in error.instance_path]
        hint = None
        if path and path[-1] in ("pattern", "patternProperties"):
            hint = "Use a pattern without look-around, back references and huge repetitions."
        detail = f"The schema is not valid: {error.message[:MAX_MESSAGE]}."
        raise InvalidSchema(detail, hint=hint, path=_pointer(path)) from error
    except UnicodeEncodeError as error:
        raise InvalidSchema("The schema holds a lone surrogate.", hint="Send text that is Unicode.", path="") from error


def _check_node(node: Mapping[str, Any], path: tuple[str, ...], definitions: Mapping[str, Any]) -> None:
    moving = sorted((_MOVING | {"$schema"}) & node.keys())
    if moving:
        raise InvalidSchema(
            f"{moving[0]} is not taken inside a schema.",
            hint="Refer to definitions with `$ref` and `#/$defs/NAME` only.",
            path=_pointer([*path, moving[0]]),
        )
    if "$ref" in node and definition(node) not in definitions:
        raise InvalidSchema(
            f"{str(node['$ref'])[:100]!r} is no definition of this schema.",
            hint="Put it under `$defs` at the root, and refer to it as `#/$defs/NAME`; nothing is fetched.",
            path=_pointer([*path, "$ref"]),
        )
    for name in node.get("properties", ()):
        if not 0 < len(name) <= MAX_NAME or not name.isprintable():
            raise InvalidSchema(
                f"A parameter cannot be named {name[:80]!r}.",
                hint=f"Use printable characters, at most {MAX_NAME}.",
                path=_pointer([*path, "properties"]),
            )


def _check_growth(schema: Mapping[str, Any]) -> None:
    definitions = _definitions(schema)
    size = MAX_EXPANSION + 1
    if len(definitions) <= MAX_DEFINITIONS:
        body = {key: value for key, value in schema.items() if key != "$defs"}
        recursive = _recursive(definitions)
        size, _ = _expansion([body, *(definitions[name] for name in recursive)], definitions, recursive)
    if size > MAX_EXPANSION:
        raise InvalidSchema(
            "The definitions multiply each other into a schema too large to work with.",
            hint="Use fewer definitions, and refer to each from fewer places.",
            path="/$defs",
        )


def _pointer(path: Collection[str]) -> str:
    return "".join("/" + step.replace("~", "~0").replace("/", "~1") for step in path)


# -- holding arguments against a schema


def validate(schema: Mapping[str, Any], arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What is wrong with some arguments, one entry a parameter; empty if they are right. Never holds a value of theirs.

    schema has passed `check`. An entry has parameter (empty where none is to blame), path inside it, message and
    type (the keyword of the schema), and for an unknown parameter with a likely one a suggestion.
    """
    work = sum(1 for _ in walk(schema)) * count_values(arguments)
    if work > MAX_WORK:
        return [_entry("", "", "the arguments hold too many values to be checked against this schema", "too_large")]
    try:
        if _validator(_body(schema)).is_valid(arguments):
            return []
        errors = list_errors(_validator(_blunt(_body(schema))), arguments, first=work > MAX_LISTED)
        entries = _entries(errors, schema, arguments) + _hidden(errors, schema, arguments)
    except ValueError:  # what the validator says of half a character, and of too many levels
        return [_entry("", "", "the arguments hold text that is not Unicode, or are nested too deeply", "unreadable")]
    order = list(schema.get("properties", ()))
    entries.sort(key=lambda entry: order.index(entry["parameter"]) if entry["parameter"] in order else len(order))
    return entries[:MAX_ERRORS] or [_entry("", "", "the arguments do not match the schema", "schema")]


def _validator(schema: Any) -> jsonschema_rs.Validator:
    return jsonschema_rs.Draft202012Validator(
        schema,
        validate_formats=True,
        mask="the value",
        pattern_options=jsonschema_rs.RegexOptions(),
        offline=True,
    )


def _blunt(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema as far as it has no references, which make listing errors take exponential time."""
    if not _references(schema):
        return schema

    def forget(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        return {key: value for key, value in mapped(node, forget).items() if key != "$ref" and key not in _TURNING}

    result: dict[str, Any] = forget(schema)
    return result


def _entries(
    errors: list[jsonschema_rs.ValidationError], schema: Mapping[str, Any], arguments: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """One entry a parameter; several messages of one are joined."""
    missing = [name for name in schema.get("properties", ()) if name not in arguments]
    found: dict[str, dict[str, Any]] = {}
    for error in errors:
        for entry in _read(error, missing):
            first = found.setdefault(entry["parameter"], entry)
            if first is not entry and entry["message"] not in first["message"]:
                first["message"] = f"{first['message']}; {entry['message']}"[:MAX_MESSAGE]
    return list(found.values())


def _read(error: jsonschema_rs.ValidationError, missing: list[str]) -> Iterator[dict[str, Any]]:
    """The entries of one error: an unknown name and a missing one are about the parameter, not the whole."""
    path, kind = [str(step) for step in error.instance_path], error.kind
    if isinstance(kind, jsonschema_rs.ValidationErrorKind.Required):
        path.append(kind.property)
        yield _entry(path[0], ".".join(path[1:]), "is required", kind.name)
    elif not path and isinstance(kind, _UNEXPECTED):
        for name in kind.unexpected[:MAX_ERRORS]:
            near = suggestions(name, missing)
            suggestion = {"suggestion": near[0]} if near else {}
            yield _entry(name[:MAX_NAME], "", "is not a parameter", kind.name) | suggestion
    else:
        yield _entry("".join(path[:1]), ".".join(path[1:]), _message(error), kind.name)


_UNEXPECTED = (
    jsonschema_rs.ValidationErrorKind.AdditionalProperties,
    jsonschema_rs.ValidationErrorKind.UnevaluatedProperties,
)
_CHOICES = (jsonschema_rs.ValidationErrorKind.AnyOf, jsonschema_rs.ValidationErrorKind.OneOfNotValid)


def _message(error: jsonschema_rs.ValidationError) -> str:
    """Of a choice: what each of its branches says."""
    if isinstance(error.kind, _CHOICES):
        said = [_message(branch[0]) for branch in error.kind.context if branch]
        return " or ".join(dict.fromkeys(said))[:MAX_MESSAGE]
    return error.message[:MAX_MESSAGE]


def _hidden(
    errors: list[jsonschema_rs.ValidationError], schema: Mapping[str, Any], arguments: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Entries for parameters that are wrong behind a reference."""
    told = {str(error.instance_path[0]) for error in errors if error.instance_path}
    shared = {"$defs": _definitions(schema)}
    return [
        _entry(name, "", "the value does not match the schema of the parameter", "$ref")
        for name, part in schema.get("properties", {}).items()
        if name in arguments and name not in told and _references(part)
        if not _validator({**part, **shared}).is_valid(arguments[name])
    ]


def _entry(parameter: str, path: str, message: str, kind: str) -> dict[str, Any]:
    return {"parameter": parameter, "path": path, "message": message, "type": kind}
