"""How to call a function from elsewhere: text to paste into a shell, into Python, or into a request to a model."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from pprint import pformat
from typing import Any

from server.registry import Version
from server.samples import sample_arguments
from server.tools import render

_CURL = """\
curl -sS {url} \\
  -H "Authorization: Bearer {token}" \\
  -H 'Content-Type: application/json' \\
  -d {arguments}
"""

_PYTHON = """\
import json
import urllib.error
import urllib.request
{imported}

arguments = {arguments}
request = urllib.request.Request({url}, json.dumps(arguments).encode())
request.add_header("Authorization", "Bearer " + {token})
request.add_header("Content-Type", "application/json")
try:
    with urllib.request.urlopen(request) as response:
        answer = json.load(response)
except urllib.error.HTTPError as problem:
    raise SystemExit(problem.read().decode()) from None
print(answer["result"] if answer["status"] == "ok" else answer)
"""


def snippets(version: Version, base_url: str, token_file: Path | None) -> dict[str, str]:
    """Ways to call a version with example arguments: `curl`, `python` (standard library only), `openai` (the tool).

    They run as they are where the service runs: the token is read from its file, or else from AIGBB_TOKEN.
    """
    arguments = sample_arguments(version.function)
    url = f"{base_url.rstrip('/')}/functions/{version.function.name}/call"
    return {
        "curl": _curl(url, arguments, token_file),
        "python": _python(url, arguments, token_file),
        "openai": as_text(render([version], "openai", strict=False)[0]) + "\n",
    }


def as_text(value: Any) -> str:
    """JSON to read and to paste: letters of all scripts as they are, signs that cannot be seen as escapes."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return "".join(sign if sign.isprintable() or sign == "\n" else json.dumps(sign)[1:-1] for sign in text)


def _curl(url: str, arguments: Mapping[str, Any], token_file: Path | None) -> str:
    token = "$AIGBB_TOKEN" if token_file is None else f"$(cat {shlex.quote(str(token_file))})"
    return _CURL.format(url=shlex.quote(url), token=token, arguments=shlex.quote(as_text(arguments)))


def _python(url: str, arguments: Mapping[str, Any], token_file: Path | None) -> str:
    literal = pformat(dict(arguments), width=100, sort_dicts=False)
    if token_file is None:
        imported, token = "from os import environ", 'environ["AIGBB_TOKEN"]'
    else:
        imported, token = "from pathlib import Path", f"Path({str(token_file)!r}).read_text().strip()"
    return _PYTHON.format(imported=imported, arguments=literal, url=repr(url), token=token)
