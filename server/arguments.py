"""Arguments held against the schema that an author declared: what is wrong with them, in bounded time."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from typing import Any

import jsonschema_rs

from kernels.suggestions import suggestions
from server.estimates import MAX_STEPS, steps
from server.schemas import MAX_MESSAGE, MAX_NAME, body_of, definitions_of, mapped, references_in, validator_of

MAX_ERRORS = 20
# Listing errors takes up to 140 times as long as finding out whether there are some.
MAX_LISTED_STEPS = MAX_STEPS // 140

# What could refuse more once references within it are forgotten.
_TURNING = frozenset({"contains", "else", "if", "not", "oneOf", "then", "unevaluatedItems", "unevaluatedProperties"})


def validate(schema: Mapping[str, Any], arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what is wrong with some arguments, one entry per parameter, and never a value of theirs; empty if valid.

    schema has passed `check`. An entry has parameter (empty where none is to blame), path inside it, message and
    type (the keyword of the schema), and for an unknown parameter with a likely one a suggestion.
    """
    if (work := steps(schema, arguments)) > MAX_STEPS:
        return [_entry("", "", f"the arguments take more than {MAX_STEPS:,} steps to check", "too_large")]
    briefly = work > MAX_LISTED_STEPS
    try:
        if validator_of(body_of(schema)).is_valid(arguments):
            return []
        errors = _errors(body_of(schema), arguments, briefly=briefly)
        entries = _entries(errors, schema, arguments) + _hidden(errors, schema, arguments, briefly=briefly)
    except ValueError:  # what the validator says of half a character, and of too many levels
        return [_entry("", "", "the arguments hold text that is not Unicode, or are nested too deeply", "unreadable")]
    order = list(schema.get("properties", ()))
    entries.sort(key=lambda entry: order.index(entry["parameter"]) if entry["parameter"] in order else len(order))
    return entries[:MAX_ERRORS] or [_entry("", "", "the arguments do not match the schema", "schema")]


def _errors(
    schema: dict[str, Any], arguments: Mapping[str, Any], *, briefly: bool
) -> list[jsonschema_rs.ValidationError]:
    if not briefly:
        return list(
            validator_of(_forgetful(schema, _TURNING) if references_in(schema) else schema).iter_errors(arguments)
        )
    try:
        validator_of(_forgetful(schema, _TURNING | {"anyOf"})).validate(arguments)
    except jsonschema_rs.ValidationError as error:
        return [error]
    return []


def _forgetful(schema: dict[str, Any], keywords: Collection[str]) -> dict[str, Any]:
    """The schema without references, which make listing errors take exponential time, and without some keywords."""

    def forget(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        return {key: value for key, value in mapped(node, forget).items() if key != "$ref" and key not in keywords}

    result: dict[str, Any] = forget(schema)
    return result


def _entries(
    errors: list[jsonschema_rs.ValidationError], schema: Mapping[str, Any], arguments: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return one entry per parameter; several messages of one are joined."""
    missing = [name for name in schema.get("properties", ()) if name not in arguments]
    found: dict[str, dict[str, Any]] = {}
    for error in errors:
        for entry in _read(error, missing):
            first = found.setdefault(entry["parameter"], entry)
            if first is not entry and entry["message"] not in first["message"]:
                first["message"] = f"{first['message']}; {entry['message']}"[:MAX_MESSAGE]
    return list(found.values())


def _read(error: jsonschema_rs.ValidationError, missing: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the entries of one error: an unknown name and a missing one are about the parameter, not the whole."""
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
    """Return the message of an error; of a choice, the messages of its branches."""
    if isinstance(error.kind, _CHOICES):
        said = [_message(branch[0]) for branch in error.kind.context if branch]
        return " or ".join(dict.fromkeys(said))[:MAX_MESSAGE]
    return error.message[:MAX_MESSAGE]


def _hidden(
    errors: list[jsonschema_rs.ValidationError],
    schema: Mapping[str, Any],
    arguments: Mapping[str, Any],
    *,
    briefly: bool,
) -> list[dict[str, Any]]:
    """Entries for parameters that are wrong behind a reference; briefly: or behind anything not listed."""
    told = {str(error.instance_path[0]) for error in errors if error.instance_path}
    shared = {"$defs": definitions_of(schema)}
    candidates = (
        (name, part)
        for name, part in schema.get("properties", {}).items()
        if name in arguments and name not in told and (briefly or references_in(part)) and isinstance(part, dict)
    )
    return [
        _entry(name, "", "the value does not match the schema of the parameter", "$ref" if "$ref" in part else "schema")
        for name, part in islice(candidates, MAX_ERRORS)
        if not validator_of({**part, **shared}).is_valid(arguments[name])
    ]


def _entry(parameter: str, path: str, message: str, kind: str) -> dict[str, Any]:
    return {"parameter": parameter, "path": path, "message": message, "type": kind}
