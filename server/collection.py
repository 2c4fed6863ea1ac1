"""A Postman collection of what is registered now: one request a function, ready to send."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from server.registry import Version
from server.samples import sample_arguments
from server.snippets import as_text

SCHEMA = "https://schema.getpostman.com/json/collection/v2.1.0/collection.json"

DESCRIPTION = """\
Every function that was registered when this was fetched, one request each, with example arguments. Fetch it again
after a registration.

Set the variable `token` of this collection to the service's token first. The service says at its start where the
token is: in the file `token` of its home folder, or in `AIGBB_TOKEN`.
"""

_UNTAGGED = "Functions"
_CALLED = "pm.expect(pm.response.json().status).to.be.oneOf(['ok', 'error']);"


def collection(versions: Iterable[Version], base_url: str) -> dict[str, Any]:
    """A collection in Postman's format 2.1. The same versions give the same collection.

    A folder a tag, in which stand the functions whose first tag it is; then a folder for those without tags.
    """
    folders: dict[str, list[dict[str, Any]]] = {}
    for version in sorted(versions, key=_place):
        folders.setdefault(_folder_of(version), []).append(_call(version))
    return {
        "info": {"name": "aigbb-functions: registered functions", "description": DESCRIPTION, "schema": SCHEMA},
        "auth": {"type": "bearer", "bearer": [{"key": "token", "value": "{{token}}", "type": "string"}]},
        "variable": [
            {"key": "baseUrl", "value": base_url.rstrip("/"), "type": "string"},
            {"key": "token", "value": "", "type": "string"},
        ],
        "item": [_service(), *({"name": name, "item": items} for name, items in folders.items())],
    }


def _folder_of(version: Version) -> str:
    return next(iter(version.function.tags), _UNTAGGED)


def _place(version: Version) -> tuple[bool, str, str]:
    return not version.function.tags, _folder_of(version), version.function.name


def _call(version: Version) -> dict[str, Any]:
    function = version.function
    about = f"`{function.signature}`\n\n{function.description}".strip()
    path = ("functions", function.name, "call")
    return _item(function.name, "POST", path, about, _CALLED, sample_arguments(function))


def _service() -> dict[str, Any]:
    code = {"code": "print('hello')\n1 + 1"}
    health = _item("Health", "GET", ("healthz",), "Whether the service serves. Needs no token.")
    health["request"]["auth"] = {"type": "noauth"}
    return {
        "name": "Service",
        "item": [
            health,
            _item("List functions", "GET", ("functions",), "What is registered."),
            _item("Execute", "POST", ("execute",), "Runs code; every function is there by its name.", _CALLED, code),
        ],
    }


def _item(
    name: str, method: str, path: Sequence[str], about: str, check: str = "", body: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """One request, with a test that it answers 200 and passes the line `check`."""
    request: dict[str, Any] = {"method": method, "header": [], "url": _url(path), "description": about}
    if body is not None:
        # Postman puts variables in for {{NAME}}, also in a text that only happens to look so.
        raw = as_text(body).replace("{{", "{\\u007b")
        request["header"] = [{"key": "Content-Type", "value": "application/json"}]
        request["body"] = {"mode": "raw", "raw": raw, "options": {"raw": {"language": "json"}}}
    lines = [
        "pm.test('Answers', () => {",
        "  pm.response.to.have.status(200);",
        *([f"  {check}"] if check else []),
        "});",
    ]
    test = {"listen": "test", "script": {"type": "text/javascript", "exec": lines}}
    return {"name": name, "event": [test], "request": request, "response": []}


def _url(path: Sequence[str]) -> dict[str, Any]:
    return {"raw": "{{baseUrl}}/" + "/".join(path), "host": ["{{baseUrl}}"], "path": list(path)}
