"""Functions as operations of the service's OpenAPI document, so that any OpenAPI client calls them typed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from server import schemas
from server.functions import Function
from server.registry import Version
from server.samples import sample_arguments

COMPONENTS = "#/components/schemas/"

# The header of RFC 7240, as requests that may go on by themselves take it.
PREFER: Mapping[str, Any] = {
    "name": "Prefer",
    "in": "header",
    "description": "`respond-async`: answer at once, and let it go on by itself; `wait=N`: after N seconds",
    "schema": {"type": "string"},
    "example": "respond-async, wait=5",
}
_PARAMETERS: tuple[Mapping[str, Any], ...] = (
    {
        "name": "session",
        "in": "query",
        "description": "A session to call it in; left out, a clean kernel",
        "schema": {"type": "string"},
    },
    {
        "name": "timeout",
        "in": "query",
        "description": "Seconds that the call may take, at most AIGBB_MAX_TIMEOUT",
        "schema": {"type": "number", "exclusiveMinimum": 0},
    },
    PREFER,
)
_LATER = {"application/json": {"schema": {"$ref": f"{COMPONENTS}ExecutionAnswer"}}}
_PROBLEM = {"application/problem+json": {"schema": {"$ref": f"{COMPONENTS}Problem"}}}


def operations(versions: Iterable[Version], answer_ref: str) -> dict[str, dict[str, Any]]:
    """Path items of OpenAPI 3.1, one a function: `POST /functions/NAME/call`, operationId NAME.

    answer_ref refers to the schema of any call's answer. The document needs what `components` gives as well, a
    schema `Problem`, one `ExecutionAnswer` and a security scheme `HTTPBearer`.
    """
    return {
        f"/functions/{version.function.name}/call": {"post": _operation(version.function, answer_ref)}
        for version in versions
    }


def components(versions: Iterable[Version]) -> dict[str, dict[str, Any]]:
    """The recursive schemas that operations refer to, for `components/schemas`.

    A definition of the parameters is called NAME.DEFINITION, one of the result NAME.result.DEFINITION.
    """
    found: dict[str, dict[str, Any]] = {}
    for version in versions:
        function = version.function
        found |= _definitions(function.parameters, function.name)
        found |= _definitions(function.returns, f"{function.name}.result")
    return found


def _operation(function: Function, answer_ref: str) -> dict[str, Any]:
    summary, _, rest = function.description.strip().partition("\n")
    body = {"schema": _body(function.parameters, function.name), "example": sample_arguments(function)}
    answer = {"application/json": {"schema": _answer(function, answer_ref)}}
    return {
        "operationId": function.name,
        "summary": summary or function.name,
        "description": f"`{function.signature}`\n\n{rest.strip()}".strip(),
        "tags": list(dict.fromkeys(["calls", *function.tags])),
        "security": [{"HTTPBearer": []}],
        "parameters": [dict(parameter) for parameter in _PARAMETERS],
        "requestBody": {"required": True, "content": {"application/json": body}},
        "responses": {
            "200": {"description": "What the call gave", "content": answer},
            "202": {"description": "It goes on by itself; its address is in `Location`", "content": _LATER},
            "4XX": {"description": "Something in the request", "content": _PROBLEM},
            "5XX": {"description": "Full, or unable", "content": _PROBLEM},
        },
    }


def _answer(function: Function, answer_ref: str) -> dict[str, Any]:
    """The answer's schema; its result is null as well, when the call ended in an error."""
    if not function.returns:
        return {"$ref": answer_ref}
    returns = _body(function.returns, f"{function.name}.result")
    result = returns if returns.get("type") == "null" else {"anyOf": [returns, {"type": "null"}]}
    return {"allOf": [{"$ref": answer_ref}, {"properties": {"result": result}}]}


# `#` is the whole document there: definitions move to its components, and references follow them.


def _body(schema: Mapping[str, Any], owner: str) -> dict[str, Any]:
    body = {key: value for key, value in schema.items() if key not in ("$defs", "$schema")}
    moved: dict[str, Any] = _moved(body, _names(schema, owner))
    return moved


def _definitions(schema: Mapping[str, Any], owner: str) -> dict[str, Any]:
    names = _names(schema, owner)
    return {names[name]: _moved(value, names) for name, value in schema.get("$defs", {}).items()}


def _names(schema: Mapping[str, Any], owner: str) -> dict[str, str]:
    """What the definitions are called as components: other characters than these are not allowed there."""
    names: dict[str, str] = {}
    for name in schema.get("$defs", {}):
        plain = f"{owner}.{re.sub(r'[^A-Za-z0-9_-]', '_', name)}"
        names[name] = plain if plain not in names.values() else f"{plain}.{len(names)}"
    return names


def _moved(node: Any, names: Mapping[str, str]) -> Any:
    if not isinstance(node, dict):
        return node
    result = schemas.mapped(node, lambda child: _moved(child, names))
    result.pop("discriminator", None)  # it points at definitions by name
    if "$ref" in result:
        name = names.get(schemas.definition(node) or "")
        result |= {"$ref": f"{COMPONENTS}{name}"}
        if name is None:  # it leads nowhere, or out of the document
            del result["$ref"]
    return result
