"""The strict form of a schema of arguments, as OpenAI's structured outputs ask for, and a check of its rules."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from server.schemas import definition, walk

MAX_PROPERTIES = 5_000
MAX_LEVELS = 10
MAX_TEXT = 120_000
MAX_VALUES = 1_000
# A text enum of more values than this has a limit on its characters, too.
LONG_ENUM, MAX_LONG_ENUM_TEXT = 250, 15_000

FORMATS = frozenset({"date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uuid"})
_NUMBER = frozenset({"exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum", "multipleOf"})
_KEPT: Mapping[str, frozenset[str]] = {
    "string": frozenset({"format", "pattern"}),
    "number": _NUMBER,
    "integer": _NUMBER,
    "array": frozenset({"maxItems", "minItems"}),
}
_REFUSED = {
    "allOf": "combines several schemas",
    "dependentRequired": "depends on other parameters",
    "dependentSchemas": "depends on other parameters",
    "else": "has conditions",
    "if": "has conditions",
    "not": "excludes a schema",
    "patternProperties": "takes names by a pattern",
    "prefixItems": "is a list whose items differ by position",
    "then": "has conditions",
}
_SHAPING = frozenset({"anyOf", "const", "enum", "items", "oneOf", "properties", "type"})
# Look-around and back references, which the grammar of structured outputs has not.
_BEYOND = re.compile(r"\(\?(?!:)|\\[1-9k]")
_TYPES: Mapping[type, str] = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}
_NULL: Mapping[str, Any] = {"type": "null"}


class NotStrict(ValueError):
    """A schema that has no strict form; the text says why, and of which parameter."""


# -- the converter


def to_strict(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The strict form of a schema of arguments: optional parameters are required and may be null.

    What only narrows a value and has no place there is left out. Raises NotStrict.
    """
    if schema.get("type") != "object":
        raise NotStrict("The arguments are not one object.")
    if choice := sorted({"anyOf", "oneOf", "$ref"} & schema.keys()):
        raise NotStrict(f"The arguments as a whole are a choice ({choice[0]}).")
    result = _convert({key: value for key, value in schema.items() if key != "$defs"}, "")
    definitions = {name: _convert(value, name) for name, value in schema.get("$defs", {}).items()}
    if definitions:
        result["$defs"] = definitions
    if faults := conforms(result):
        raise NotStrict(faults[0])
    return result


def _convert(schema: Any, where: str) -> dict[str, Any]:
    """One schema; where is the path of names that leads to it."""
    label = f"`{where}`" if where else "The function"
    if not isinstance(schema, dict):
        raise NotStrict(f"{label} accepts {'anything' if schema else 'nothing'}.")
    if keyword := next((key for key in _REFUSED if key in schema), None):
        raise NotStrict(f"{label} {_REFUSED[keyword]} ({keyword}).")
    notes = {"description": schema["description"]} if schema.get("description") else {}
    if "$ref" in schema:
        return _reference(schema, label, notes)
    branches = [*schema.get("anyOf", []), *schema.get("oneOf", [])]
    if branches:
        if len(_SHAPING & schema.keys()) > 1:
            raise NotStrict(f"{label} is a choice and a type at once.")
        return {"anyOf": [_convert(branch, where) for branch in branches], **notes}
    return _typed(schema, where, label) | notes


def _reference(schema: Mapping[str, Any], label: str, notes: dict[str, Any]) -> dict[str, Any]:
    """A reference has nothing beside it, so that its text goes around it."""
    if definition(schema) is None or _SHAPING & schema.keys():
        raise NotStrict(f"{label} refers to another schema and adds to it.")
    plain = {"$ref": schema["$ref"]}
    return {"anyOf": [plain], **notes} if notes else plain


def _typed(schema: Mapping[str, Any], where: str, label: str) -> dict[str, Any]:
    if any(isinstance(value, (dict, list)) for value in [*schema.get("enum", ()), schema.get("const")]):
        raise NotStrict(f"{label} takes certain lists or objects only.")
    types = _types(schema)
    if not types:
        raise NotStrict(f"{label} accepts anything.")
    result: dict[str, Any] = {"type": types[0] if len(types) == 1 else types}
    result |= {key: schema[key] for key in ("const", "enum") if key in schema}
    for name in types:
        result |= {key: schema[key] for key in _KEPT.get(name, frozenset()) & schema.keys()}
    if result.get("format", "date") not in FORMATS:
        del result["format"]
    if _BEYOND.search(str(result.get("pattern", ""))):
        del result["pattern"]
    if "object" in types:
        result |= _object(schema, where, label)
    if "array" in types:
        if schema.get("items") in (None, True, {}):
            raise NotStrict(f"{label} is a list of anything.")
        result["items"] = _convert(schema["items"], f"{where}[]")
    return result


def _types(schema: Mapping[str, Any]) -> list[str]:
    """The types of a schema, read from its values or members where it does not name them."""
    named = schema.get("type")
    if named is not None:
        return [named] if isinstance(named, str) else list(named)
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return list(dict.fromkeys(_TYPES[type(value)] for value in values if type(value) in _TYPES))
    return ["object"] if "properties" in schema else ["array"] if "items" in schema else []


def _object(schema: Mapping[str, Any], where: str, label: str) -> dict[str, Any]:
    properties, more = schema.get("properties", {}), schema.get("additionalProperties")
    if not properties and more is not False:
        raise NotStrict(f"{label} takes any names." if not where else f"{label} is a free-form object.")
    if more not in (None, False):
        raise NotStrict(f"{label} takes names beyond those listed.")
    if unknown := [name for name in schema.get("required", ()) if name not in properties]:
        raise NotStrict(f"{label} requires `{unknown[0]}`, and does not describe it.")
    converted = {}
    for name, part in properties.items():
        strict = _convert(part, f"{where}.{name}" if where else name)
        converted[name] = strict if name in schema.get("required", ()) else _nullable(strict)
    return {"properties": converted, "required": list(converted), "additionalProperties": False}


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    """A strict schema that takes null as well."""
    if _takes_null(schema):
        return schema
    if "anyOf" in schema:
        return {**schema, "anyOf": [*schema["anyOf"], dict(_NULL)]}
    types = schema.get("type", "object")
    types = [types] if isinstance(types, str) else types
    if "const" in schema or "$ref" in schema or {"object", "array"} & set(types):
        notes = {key: value for key, value in schema.items() if key == "description"}
        return {"anyOf": [{k: v for k, v in schema.items() if k not in notes}, dict(_NULL)], **notes}
    enum = {"enum": [*schema["enum"], None]} if "enum" in schema else {}
    return {**schema, "type": list(dict.fromkeys([*types, "null"])), **enum}


def _takes_null(schema: Mapping[str, Any]) -> bool:
    if "anyOf" in schema:
        return any(_takes_null(branch) for branch in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return None in schema.get("enum", [schema.get("const", "")])
    return "null" in _types(schema)


# -- the rules


def conforms(schema: Mapping[str, Any]) -> list[str]:
    """What in a schema breaks the rules of structured outputs, a sentence each; empty if nothing does."""
    faults = []
    if schema.get("type") != "object" or "anyOf" in schema:
        faults.append("The root is not an object.")
    for path, node in walk(schema):
        label = "/".join(path) or "The root"
        faults += [f"{label}: {fault}" for fault in _faults(node, schema.get("$defs", {}))]
        parts = [*node.get("properties", {}).items(), *enumerate(node.get("anyOf", ()))]
        faults += [f"{label}: {name} is no schema with a type" for name, part in parts if not isinstance(part, dict)]
    return faults + list(_excess(schema))


def _faults(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> Iterator[str]:
    if "$ref" in node:
        if len(node) > 1:
            yield "$ref has company"
        if definition(node) not in definitions:
            yield "$ref leads nowhere"
        return
    if "anyOf" in node:
        if extra := node.keys() - {"anyOf", "description", "$defs"}:
            yield f"anyOf stands beside {sorted(extra)}"
        return
    types = node.get("type", [])
    types = [types] if isinstance(types, str) else types
    allowed = {"type", "description", "enum", "const", "$defs"}.union(*(_MEMBERS.get(name, ()) for name in types))
    if extra := node.keys() - allowed:
        yield f"holds {sorted(extra)}"
    yield from _type_faults(node, types)


def _type_faults(node: Mapping[str, Any], types: list[str]) -> Iterator[str]:
    if not types:
        yield "has no type"
    if node.get("format", "date") not in FORMATS:
        yield f"format {node['format']}"
    if re.search(r"\(\?[=!<P]|\\[1-9]", node.get("pattern", "")):
        yield "pattern looks around"
    if "array" in types and not isinstance(node.get("items"), dict):
        yield "a list without items"
    if "object" in types and node.get("additionalProperties") is not False:
        yield "an open object"
    if "object" in types and sorted(node.get("required", [])) != sorted(node.get("properties", {"": None})):
        yield "not all is required"


_MEMBERS = {
    "object": ("properties", "required", "additionalProperties"),
    "array": ("items", "minItems", "maxItems"),
    "string": ("pattern", "format"),
    "number": ("multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum"),
    "integer": ("multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum"),
}


def _excess(schema: Mapping[str, Any]) -> Iterator[str]:
    """The limits on size that a strict schema is over."""
    nodes = [node for _, node in walk(schema)]
    names = [name for node in nodes for name in node.get("properties", {})]
    enums = [node["enum"] for node in nodes if "enum" in node]
    values = [value for enum in enums for value in enum]
    consts = [node["const"] for node in nodes if "const" in node]
    if len(names) > MAX_PROPERTIES:
        yield f"There are {len(names):,} properties; {MAX_PROPERTIES:,} are allowed."
    if len(values) > MAX_VALUES:
        yield f"There are {len(values):,} allowed values; {MAX_VALUES:,} may be listed."
    if (length := _text([*names, *schema.get("$defs", {}), *values, *consts])) > MAX_TEXT:
        yield f"Names and values have {length:,} characters; {MAX_TEXT:,} are allowed."
    for enum in enums:
        if len(enum) > LONG_ENUM and _text(enum) > MAX_LONG_ENUM_TEXT:
            yield f"A list of {len(enum):,} values has {_text(enum):,} characters; {MAX_LONG_ENUM_TEXT:,} are allowed."
    if (levels := max(map(_levels, [schema, *schema.get("$defs", {}).values()]))) > MAX_LEVELS:
        yield f"Objects are nested {levels} levels deep; {MAX_LEVELS} are allowed."


def _text(values: list[Any]) -> int:
    return sum(len(value) for value in values if isinstance(value, str))


def _levels(schema: Mapping[str, Any]) -> int:
    """How many objects are nested within each other, the outermost included."""
    own = 1 if "properties" in schema else 0
    inner = [*schema.get("properties", {}).values(), *schema.get("anyOf", ()), schema.get("items")]
    return own + max((_levels(part) for part in inner if isinstance(part, dict)), default=0)
