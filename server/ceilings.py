"""Numbers in requests that a setting limits: one over the limit is refused, and never silently reduced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.errors import InvalidRequest
from server.settings import Settings

# The setting that limits each field.
CEILINGS: Mapping[str, str] = {
    "timeout": "max_timeout",
    "max_rounds": "max_rounds",
    "max_tool_calls": "max_calls",
    "max_total_tokens": "max_tokens",
    "total_timeout": "max_seconds",
}


def check_ceilings(settings: Settings, fields: Mapping[str, Any]) -> None:
    """Raises InvalidRequest for a field over its limit. fields may hold others; None is not sent, or no limit."""
    for field, setting in CEILINGS.items():
        value, most = fields.get(field), getattr(settings, setting)
        if value is not None and most is not None and value > most:
            raise _over(field, most, f"AIGBB_{setting.upper()}")


def declare_ceilings(settings: Settings, document: dict[str, Any]) -> None:
    """Write the limits into an OpenAPI document: as the maximum of each field and parameter."""
    operations = (each for methods in document["paths"].values() for each in methods.values())
    found = [(one["name"], one["schema"]) for each in operations for one in each.get("parameters", ())]
    found += [
        (name, schema)
        for title, body in document["components"]["schemas"].items()
        if title.endswith("Body")
        for name, schema in body.get("properties", {}).items()
    ]
    for name, schema in found:
        most = getattr(settings, CEILINGS[name]) if name in CEILINGS else None
        for branch in schema.get("anyOf", [schema]):
            if most is not None and branch.get("type") in ("number", "integer"):
                branch["maximum"] = most


def _over(field: str, most: float, variable: str) -> InvalidRequest:
    message = f"Input should be less than or equal to {most:g}, the value of {variable}"
    return InvalidRequest(
        f"The request is not valid. {field}: {message}.",
        hint=f"Send at most {most:g} as `{field}`, or leave it out; {variable} sets the limit.",
        errors=[{"field": field, "message": message, "type": "less_than_equal"}],
    )
