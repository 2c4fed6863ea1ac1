"""Snippets run when pasted, and what is in them arrives as it was meant."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from openai.types.chat import ChatCompletionFunctionToolParam
from pydantic import TypeAdapter

from server.functions import Function
from server.registry import Version
from server.snippets import as_text, snippets

HARD = [
    "plain",
    'it\'s "quoted" `id` $(id) $HOME ${HOME} !! \\ \\n %s {0} {x}',
    "two\nlines\r\n\ttabbed",
    "東京 Zürich \N{GRINNING FACE}",
    "\u202e\u2028\x7f\x9b\x00\N{ZERO WIDTH SPACE}\N{LANGUAGE TAG}",
    "'''\"\"\"",
    "@/etc/hostname",
    "-d",
    "",
]


class Echo(BaseHTTPRequestHandler):
    """Answers a call with its arguments as the result, and keeps what came."""

    def do_POST(self) -> None:
        """One call; 401 where the token is another one than "the token"."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        came = {"path": self.path, "type": self.headers["Content-Type"], "body": json.loads(body)}
        self.server.came.append(came)  # type: ignore[attr-defined]
        right = self.headers["Authorization"] == "Bearer the token"
        answer = {"status": "ok", "result": "done"} if right else {"code": "unauthorized", "hint": "Send the token."}
        self.send_response(200 if right else 401)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_: object) -> None:
        """Quietly."""


@contextmanager
def listening() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An echo's address, and what came there."""
    with HTTPServer(("127.0.0.1", 0), Echo) as server:
        server.came = []  # type: ignore[attr-defined]
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", server.came  # type: ignore[attr-defined]
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def echo() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """One for all."""
    with listening() as one:
        yield one


def version(*values: Any) -> Version:
    """A function whose example arguments are these."""
    properties = {f"p{number}": {"examples": [value]} for number, value in enumerate(values)}
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return Version(Function("greet", "", (), (), "Greet\nsomebody.", "greet()", parameters), 1, "")


def token_file(folder: Path) -> Path:
    """A token where a shell stumbles."""
    path = folder / 'it\'s a $HOME "folder" ü' / "token"
    path.parent.mkdir()
    path.write_text("the token\n")
    return path


def pasted(key: str, text: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """What comes of it in a shell, or in a file of Python's."""
    argv = ["bash", "-s"] if key == "curl" else [sys.executable, "-I", "-"]
    clean = {"PATH": os.environ["PATH"], "HOME": "/nowhere", "LANG": "C.UTF-8", **(env or {})}
    return subprocess.run(argv, input=text, env=clean, capture_output=True, encoding="utf-8", timeout=60)


PRINTED = {"curl": '{"status": "ok", "result": "done"}', "python": "done\n"}
BOTH = pytest.mark.parametrize("key", ["curl", "python"])


@BOTH
@pytest.mark.parametrize(
    "values",
    [tuple(HARD), ({"a": [1, -2.5, True, None, "é'"], "": {}},), tuple({"long": "word " * 60} for _ in range(30)), ()],
    ids=["texts", "values", "long", "none"],
)
def test_the_arguments_arrive(
    key: str, values: tuple[Any, ...], echo: tuple[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    url, came = echo
    done = pasted(key, snippets(version(*values), url, token_file(tmp_path))[key])
    assert (done.stdout, done.stderr, done.returncode) == (PRINTED[key], "", 0)
    expected = {f"p{number}": value for number, value in enumerate(values)}
    assert came[-1] == {"path": "/functions/greet/call", "type": "application/json", "body": expected}


@BOTH
def test_without_a_file_the_token_is_in_the_environment(key: str, echo: tuple[str, list[dict[str, Any]]]) -> None:
    url, _ = echo
    done = pasted(key, snippets(version("x"), f"{url}/", None)[key], {"AIGBB_TOKEN": "the token"})
    assert (done.stdout, done.stderr, done.returncode) == (PRINTED[key], "", 0)


def test_a_refused_call_shows_what_to_do(echo: tuple[str, list[dict[str, Any]]]) -> None:
    texts = snippets(version("x"), echo[0], None)
    refused = {"code": "unauthorized", "hint": "Send the token."}
    assert json.loads(pasted("curl", texts["curl"], {"AIGBB_TOKEN": "wrong"}).stdout) == refused
    python = pasted("python", texts["python"], {"AIGBB_TOKEN": "wrong"})
    assert (json.loads(python.stderr), python.returncode) == (refused, 1)


def test_a_call_that_nobody_answers_says_so() -> None:
    with listening() as (url, _):
        texts = snippets(version("x"), url, None)
    assert "curl: (7)" in pasted("curl", texts["curl"], {"AIGBB_TOKEN": "x"}).stderr


def test_looks_as_in_the_documentation() -> None:
    texts = snippets(version("Ada"), "http://127.0.0.1:8000", Path("/srv/aigbb/token"))
    assert texts["curl"] == (
        "curl -sS http://127.0.0.1:8000/functions/greet/call \\\n"
        '  -H "Authorization: Bearer $(cat /srv/aigbb/token)" \\\n'
        "  -H 'Content-Type: application/json' \\\n"
        "  -d '{\n"
        '  "p0": "Ada"\n'
        "}'\n"
    )
    assert "arguments = {'p0': 'Ada'}\n" in texts["python"]


def test_the_tool_is_one_that_openai_takes() -> None:
    tool = json.loads(snippets(version("Ada"), "http://x", None)["openai"])
    TypeAdapter(ChatCompletionFunctionToolParam).validate_python(tool, strict=True)
    assert (tool["type"], tool["function"]["name"]) == ("function", "greet")
    assert tool["function"]["description"] == "Greet\nsomebody."
    assert list(tool["function"]["parameters"]["properties"]) == ["p0"]


def test_no_text_holds_signs_that_cannot_be_seen(tmp_path: Path) -> None:
    for text in snippets(version(*HARD), "http://x", tmp_path).values():
        assert [sign for sign in text if not sign.isprintable() and sign != "\n"] == []


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": "é東\N{GRINNING FACE}"}, '{\n  "a": "é東\N{GRINNING FACE}"\n}'),
        ("a\u202eb\x7f\ud800\N{LANGUAGE TAG}", '"a\\u202eb\\u007f\\ud800\\udb40\\udc01"'),
        ([], "[]"),
    ],
)
def test_json_shows_letters_and_escapes_what_cannot_be_seen(value: Any, text: str) -> None:
    assert as_text(value) == text
    assert json.loads(text) == value
