"""JSON Schemas of arguments: made public, cut, checked, and held against arguments. Pure functions, no I/O."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from graphlib import TopologicalSorter
from typing import Any
from urllib.parse import unquote

import jsonschema_rs

from server.errors import InvalidSchema
from server.patterns import weight

MAX_SIZE = 64 * 1024
MAX_DEPTH = 50
# Schemas that pydantic made are trusted further than those that somebody wrote.
MAX_INFERRED_DEPTH = 100
MAX_EXPANSION = 1024 * 1024
MAX_DEFINITIONS = 500
MAX_NAME = 64
MAX_MESSAGE = 300
# States of all patterns of a schema together.
MAX_PATTERNS = 50_000

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


def references_in(schema: Any) -> list[str]:
    """List the definitions that a schema refers to, once per reference."""
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
    _check_meta(lambda: jsonschema_rs.meta.validate(body_of(raw)))
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
    definitions = definitions_of(schema)
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


def definitions_of(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the definitions of a schema by name."""
    found = schema.get("$defs")
    return dict(found) if isinstance(found, dict) else {}


def _replaceable(body: Any, definitions: Mapping[str, Any]) -> frozenset[str]:
    """The definitions that references are replaced by: all that are not recursive, or none if that is too much."""
    if len(definitions) > MAX_DEFINITIONS:
        return frozenset()
    recursive = recursive_in(definitions)
    size, depth = _expansion([body, *(definitions[name] for name in recursive)], definitions, recursive)
    fits = size <= MAX_SIZE and depth <= MAX_INFERRED_DEPTH
    return frozenset(definitions.keys() - recursive) if fits else frozenset()


def recursive_in(definitions: Mapping[str, Any]) -> frozenset[str]:
    """Return the names of the definitions that lead back to themselves."""
    graph = {name: set(references_in(value)) & definitions.keys() for name, value in definitions.items()}
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
    flat = {name: references_in(value) for name, value in definitions.items() if name not in recursive}
    order = TopologicalSorter({name: [r for r in refs if r in flat] for name, refs in flat.items()}).static_order()
    sizes: dict[str, tuple[int, int]] = {}
    for name in order:
        sizes[name] = _extent(definitions[name], sizes)
    extents = [_extent(schema, sizes) for schema in schemas]
    return sum(size for size, _ in extents), max(depth for _, depth in extents)


def _extent(schema: Any, sizes: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
    inner = [sizes[name] for name in references_in(schema) if name in sizes]
    size = len(json.dumps(schema)) + sum(size for size, _ in inner)
    return size, _depth(schema) + max((depth for _, depth in inner), default=0)


def _pruned(schema: dict[str, Any]) -> dict[str, Any]:
    """Without the definitions that nothing refers to."""
    definitions = definitions_of(schema)
    body = {key: value for key, value in schema.items() if key != "$defs"}
    graph = {name: references_in(value) for name, value in definitions.items()}
    used = _reached(references_in(body), graph)
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
    body = body_of(schema)
    _check_meta(lambda: jsonschema_rs.meta.validate(body))
    for path, node in walk(body):
        _check_node(node, path, definitions_of(schema))
    _check_patterns(body)
    _check_meta(lambda: validator_of(body))
    _check_growth(body)


def body_of(schema: Mapping[str, Any]) -> dict[str, Any]:
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


def _check_patterns(schema: Mapping[str, Any]) -> None:
    states = 0
    for path, node in walk(schema):
        patterns = [*([node["pattern"]] if "pattern" in node else ()), *node.get("patternProperties", ())]
        states += sum(map(weight, patterns))
        if states > MAX_PATTERNS:
            raise InvalidSchema(
                f"The schema is not valid: its patterns have more than {MAX_PATTERNS} states, repetitions included.",
                hint="Limit lengths with `minLength` and `maxLength`, not with repetitions in patterns.",
                path=_pointer([*path, "pattern" if "pattern" in node else "patternProperties"]),
            )


def _check_growth(schema: Mapping[str, Any]) -> None:
    definitions = definitions_of(schema)
    size = MAX_EXPANSION + 1
    if len(definitions) <= MAX_DEFINITIONS:
        body = {key: value for key, value in schema.items() if key != "$defs"}
        recursive = recursive_in(definitions)
        size, _ = _expansion([body, *(definitions[name] for name in recursive)], definitions, recursive)
    if size > MAX_EXPANSION:
        raise InvalidSchema(
            "The definitions multiply each other into a schema too large to work with.",
            hint="Use fewer definitions, and refer to each from fewer places.",
            path="/$defs",
        )


def _pointer(path: Collection[str]) -> str:
    return "".join("/" + step.replace("~", "~0").replace("/", "~1") for step in path)


def validator_of(schema: Any) -> jsonschema_rs.Validator:
    """Compile a schema, for errors that hold no value."""
    return jsonschema_rs.Draft202012Validator(
        schema,
        validate_formats=True,
        mask="the value",
        pattern_options=jsonschema_rs.RegexOptions(),
        offline=True,
    )
