"""Arguments that do not fit: what a caller is told about each, and what may have been meant instead."""

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from pydantic import ValidationError

MAX_MESSAGES = 5
MAX_TEXT = 200
# Parameters that are listed as wrong, and characters of a name that may have a near match.
MAX_ENTRIES = 20
MAX_NAME = 80

# Where a value is in the arguments: keys and indexes, the parameter's name first.
Place = tuple[str | int, ...]
# pydantic's errors, each with the place that it is about.
Wrong = list[tuple[Place, dict[str, Any]]]


def located(error: ValidationError, arguments: Mapping[str, Any]) -> Wrong:
    """Each error with its place in the arguments."""
    found = error.errors(include_url=False, include_input=False)
    return [(place_of(e["loc"], arguments, "missing" in e["type"]), dict(e)) for e in found]


def place_of(location: Place, value: Any, missing: bool) -> Place:
    """pydantic's location less the labels of union members, which are no keys of the data."""
    place: list[str | int] = []
    for index, step in enumerate(location):
        if holds(value, step):
            value = value[step]
        elif not (missing and index == len(location) - 1):
            continue
        place.append(step)
    return tuple(place)


def holds(value: Any, step: str | int) -> bool:
    """Whether a dict has this key, or a list this index."""
    if isinstance(value, list):
        return isinstance(step, int) and step < len(value)
    return isinstance(value, dict) and step in value


def entries(wrong: Wrong, names: list[str]) -> list[dict[str, str]]:
    """One entry for each parameter, at most 20, in the order in which they were found wrong."""
    grouped: dict[str, Wrong] = {}
    for place, error in wrong:
        grouped.setdefault(str(next(iter(place or error["loc"]), "")), []).append((place[1:], error))
    return [entry(name, errors, names) for name, errors in islice(grouped.items(), MAX_ENTRIES)]


def entry(name: str, errors: Wrong, names: list[str]) -> dict[str, str]:
    """What is wrong with one parameter."""
    shared = common([place for place, _ in errors])
    lines = dict.fromkeys(line(place[len(shared) :], error) for place, error in errors)
    message = "; ".join(list(lines)[:MAX_MESSAGES])
    if len(lines) > MAX_MESSAGES:
        message += f"; and {len(lines) - MAX_MESSAGES} more"
    kind = str(errors[0][1]["type"])
    made = {"parameter": name[:MAX_TEXT], "path": dotted(shared), "message": message, "type": TYPES.get(kind, kind)}
    if kind == "unexpected_keyword_argument" and (near := suggestions(name, names)):
        made["suggestion"] = near[0]
    return made


def suggestions(name: str, names: list[str]) -> list[str]:
    """The nearest of some names; comparing takes time with the product of the lengths, so long ones have none."""
    if len(name) > MAX_NAME:
        return []
    return difflib.get_close_matches(name, [each for each in names if len(each) <= MAX_NAME], 1)


TYPES = {"missing_keyword_only_argument": "missing_argument", "unexpected_keyword_argument": "unexpected_argument"}
SENTENCES = {
    "missing_keyword_only_argument": "This argument is required",
    "unexpected_keyword_argument": "There is no such argument",
}


def line(place: Place, error: Mapping[str, Any]) -> str:
    """One message, with the place that it is about."""
    text = SENTENCES.get(error["type"], error["msg"])
    if error["type"] == "union_tag_invalid":  # pydantic's own sentence repeats what was sent
        text = f"{error['ctx']['discriminator']} should be one of {error['ctx']['expected_tags']}"
    return f"{dotted(place)}: {text[:MAX_TEXT]}" if place else str(text[:MAX_TEXT])


def common(places: Sequence[Place]) -> Place:
    """The steps that all places begin with."""
    steps = []
    for alternatives in zip(*places, strict=False):
        if any(step != alternatives[0] for step in alternatives):
            break
        steps.append(alternatives[0])
    return tuple(steps)


def dotted(place: Place) -> str:
    """A place as text, such as `stops.0.city`."""
    return ".".join(str(step) for step in place)[:MAX_TEXT]


# -- second chances

NOTHING = object()


def container(text: str) -> Any:
    """The object or array that a text is the JSON of; None for any other text."""
    if text.strip()[:1] not in ("{", "["):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def at(value: Any, place: Place) -> Any:
    """The value at a place; NOTHING where there is none."""
    for step in place:
        if not holds(value, step):
            return NOTHING
        value = value[step]
    return value


def replaced(value: Any, repairs: Mapping[Place, list[Any]]) -> Any:
    """A copy with other values at some places; an empty list takes the key out."""
    if () in repairs:
        return repairs[()][0]
    below: dict[str | int, dict[Place, list[Any]]] = {}
    for place, new in repairs.items():
        below.setdefault(place[0], {})[place[1:]] = new
    copy = value.copy()
    for step, inner in below.items():
        if inner.get(()) == []:
            del copy[step]
        else:
            copy[step] = replaced(value[step], inner)
    return copy


def may_be_left_out(root: Mapping[str, Any], place: Place) -> bool:
    """Whether the schema lets the last key of a place be absent."""
    nodes = list(variants(root, root))
    for step in place[:-1]:
        nodes = [v for node in nodes for v in variants(under(node, step), root)]
    key = place[-1]
    return any(key in node.get("properties", ()) and key not in node.get("required", ()) for node in nodes)


def under(node: Mapping[str, Any], step: str | int) -> Any:
    """The schema of what is one step inside."""
    if isinstance(step, str):
        return node.get("properties", {}).get(step, node.get("additionalProperties"))
    fixed = node.get("prefixItems", ())
    return fixed[step] if step < len(fixed) else node.get("items")


def variants(node: Any, root: Mapping[str, Any], seen: tuple[str, ...] = ()) -> Iterator[Mapping[str, Any]]:
    """A schema, the one that it refers to, and its alternatives."""
    if not isinstance(node, dict):
        return
    yield node
    if (reference := node.get("$ref")) and reference not in seen:
        target = root.get("$defs", {}).get(reference.removeprefix("#/$defs/"))
        yield from variants(target, root, (*seen, reference))
    for keyword in ("anyOf", "oneOf", "allOf"):
        for alternative in node.get(keyword, ()):
            yield from variants(alternative, root, seen)
