"""The error tree, its page in the documentation, and what each refusal of the REST door leaves alone: everything.

What needs a broken disk or a killed service is in `test_environments` and `test_crash`, what the resolver may say in
`test_packages`, what an import may do in `test_probing`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

import kernels.errors
import server.errors
import server.grants
import server.refusals
import server.variables
from kernels.errors import AigbbError
from tests.conftest import ROOT, Server
from tests.doors import delete_all, picture, problem, register

pytest_plugins = ["tests.doors_fixtures"]

# -- the tree


ERRORS = {
    module.__name__ for module in (kernels.errors, server.errors, server.refusals, server.grants, server.variables)
}


def tree(parent: type[AigbbError] = AigbbError) -> Iterator[type[AigbbError]]:
    """Every error that is defined in the modules of errors, parents first."""
    if parent.__module__ in ERRORS:
        yield parent
        for child in parent.__subclasses__():
            yield from tree(child)


ALL = list(dict.fromkeys(tree()))
# Those that say what happened; a parent that only groups others has no code of its own.
CONCRETE = sorted((kind for kind in ALL if "code" in vars(kind)), key=lambda kind: kind.code)


def test_a_class_without_a_code_of_its_own_is_a_parent() -> None:
    assert [kind.__name__ for kind in ALL if kind not in CONCRETE and not kind.__subclasses__()] == []


def test_no_two_errors_have_one_code() -> None:
    codes = [kind.code for kind in CONCRETE]
    assert codes == sorted(set(codes))


@pytest.mark.parametrize("kind", CONCRETE, ids=lambda kind: kind.code)
def test_an_error_says_what_it_means_and_what_to_do(kind: type[AigbbError]) -> None:
    assert re.fullmatch(r"[a-z][a-z_]*[a-z]", kind.code)
    assert 400 <= kind.status < 600
    assert first_line(kind).endswith(".")
    assert kind.hint.endswith(".") or kind.hint == hints_of_each_case(kind)


def first_line(kind: type[AigbbError]) -> str:
    """What an error means."""
    return (inspect.getdoc(kind) or "").partition("\n")[0]


def hints_of_each_case(kind: type[AigbbError]) -> str | None:
    """The two whose hint is made where they are raised have none in the class."""
    return "" if kind.code in ("internal_error", "missing_dependency") else None


def test_the_page_of_errors_is_that_of_the_classes() -> None:
    page = (ROOT / "docs" / "errors.md").read_text()
    table = page.split("<!-- errors -->\n")[1].split("<!-- /errors -->")[0]
    lines = [line for line in table.splitlines() if line]
    assert lines[:2] == ["| code | status | what it means | what to do | fix |", "|---|---|---|---|---|"]
    assert [cells(line)[:4] for line in lines[2:]] == [
        [f"`{kind.code}`", str(kind.status), escaped(first_line(kind)), escaped(kind.hint)] for kind in CONCRETE
    ]


def cells(line: str) -> list[str]:
    """The cells of a row of a Markdown table."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def escaped(text: str) -> str:
    """A text as a cell holds it."""
    return text.replace("|", r"\|")


# -- refusals


@pytest.fixture(scope="module")
def standing(indexed: Server) -> Iterator[httpx2.Client]:
    """A client of a service with some functions that refusals are about."""
    with indexed.client() as client:
        register(client, "def keeper(n: int) -> int:\n    return n\n")
        register(client, "from aigbb_functions import keeper\n\ndef user() -> int:\n    return keeper(1)\n")
        register(client, "def holder() -> int:\n    return 1\n", packages=["solid==2.0"])
        yield client
        delete_all(client)


def good(*lines: str, head: str = "def good() -> int:") -> str:
    """A source with some lines before its function."""
    return "\n".join([*lines, head, "    return 1", ""])


def packed(*packages: str) -> dict[str, Any]:
    """A sound function with these packages."""
    return {"source": good(), "packages": list(packages)}


def typed(annotation: str, *lines: str) -> dict[str, Any]:
    """A function with a parameter of this type."""
    return {"source": good(*lines, head=f"def good(x: {annotation}) -> int:")}


DEEP = {"unary": "-" * 5000 + "1", "memory": "-" * 100_000 + "1", "digits": "9" * 5000}
ELIF = "if x:\n    pass\n" + "elif x:\n    pass\n" * 3000

# What is sent to /register, the answer's status and code, and more of what it says.
REFUSED: dict[str, tuple[dict[str, Any], int, str, dict[str, Any]]] = {
    # the name
    "path": ({"name": "../evil", "source": "def evil(): pass"}, 422, "invalid_name", {"reason": "pattern"}),
    "dash": ({"name": "go-od", "source": good()}, 422, "invalid_name", {"fix": {"name": "go_od"}}),
    "newline": ({"name": "good\n", "source": good()}, 422, "invalid_name", {"fix": {"name": "good"}}),
    "dunder": ({"name": "__init__", "source": "def __init__(): pass"}, 422, "invalid_name", {"reason": "pattern"}),
    "cyrillic": ({"name": "аdd", "source": "def аdd(): pass"}, 422, "invalid_name", {"reason": "pattern"}),  # noqa: RUF001
    "long": ({"name": "a" * 65, "source": "x = 1"}, 422, "invalid_name", {"reason": "pattern"}),
    "keyword": ({"name": "class", "source": "x = 1"}, 422, "invalid_name", {"reason": "keyword"}),
    "builtin": ({"name": "list", "source": "def list(): pass"}, 422, "invalid_name", {"reason": "shadows_builtin"}),
    "found builtin": ({"source": "def open(): pass"}, 422, "invalid_name", {"reason": "shadows_builtin"}),
    "reserved": ({"name": "Register", "source": "x = 1"}, 422, "invalid_name", {"reason": "reserved"}),
    "twin": ({"source": "def Keeper(): pass"}, 409, "name_clash", {"existing": "keeper"}),
    "taken": ({"source": "def keeper(): pass", "on_conflict": "error"}, 409, "name_clash", {"version": 1}),
    "stale": ({"source": "def keeper(): pass", "if_match": "sha256:0"}, 412, "stale_version", {"version": 1}),
    "stale and new": ({"source": good(), "if_match": "sha256:0"}, 412, "stale_version", {}),
    # the source
    "large": ({"source": "#" * (257 * 1024)}, 413, "source_too_large", {}),
    "syntax": (
        {"source": "def good(:\n"},
        422,
        "syntax_error",
        {"location": {"line": 1, "column": 10, "text": "def good(:"}},
    ),
    "indentation": ({"source": "def good():\nreturn 1\n"}, 422, "syntax_error", {}),
    "NUL": ({"source": "x\0"}, 422, "source_unparsable", {}),
    "5000 signs": ({"source": f"x = {DEEP['unary']}"}, 422, "source_unparsable", {}),
    "100000 signs": ({"source": f"x = {DEEP['memory']}"}, 422, "source_unparsable", {}),
    "5000 digits": ({"source": f"x = {DEEP['digits']}"}, 422, "syntax_error", {}),
    "3000 elif": ({"source": f"x = 0\n{ELIF}"}, 422, "source_unparsable", {}),
    "no function": ({"source": "x = 1"}, 422, "function_not_found", {"candidates": ["x"]}),
    "two": ({"source": "def a(): pass\ndef b(): pass"}, 422, "function_not_found", {"candidates": ["a", "b"]}),
    "other": ({"name": "good", "source": "def other(): pass"}, 422, "function_not_found", {"candidates": ["other"]}),
    "lambda": ({"name": "good", "source": "good = lambda: 1"}, 422, "function_not_found", {"candidates": ["good"]}),
    "class": ({"source": "class Good:\n    pass"}, 422, "function_not_found", {"candidates": ["Good"]}),
    # the signature
    "args": (
        {"source": "def good(a, *b, **c): pass"},
        422,
        "unsupported_signature",
        {"parameters": [{"parameter": "b", "kind": "*args"}, {"parameter": "c", "kind": "**kwargs"}]},
    ),
    "positional": (
        {"source": "def good(a, /): pass"},
        422,
        "unsupported_signature",
        {"parameters": [{"parameter": "a", "kind": "positional-only"}]},
    ),
    "unresolved": (typed("'Missing'"), 422, "schema_error", {"parameter": "x", "annotation": "Missing"}),
    "callable": (typed("Callable[[], int]", "from typing import Callable"), 422, "schema_error", {"parameter": "x"}),
    "any class": (typed("Thing", "class Thing:", "    pass"), 422, "schema_error", {"parameter": "x"}),
    "input_schema": ({"source": good(), "input_schema": {"type": "array"}}, 422, "invalid_schema", {}),
    "bound": (
        {"source": "def good(user: str): pass", "bound": ["usr"]},
        422,
        "invalid_bound",
        {"parameters": ["user"], "fix": {"rename": {"usr": "user"}}},
    ),
    "tag": ({"source": good(), "tags": ["a b"]}, 422, "invalid_tag", {}),
    "variable": ({"source": good(), "env": {"LD_PRELOAD": "x"}}, 422, "invalid_env", {"name": "LD_PRELOAD"}),
    # the packages
    "nonsense": (packed("six", "!!"), 422, "invalid_requirement", {"index": 1, "requirement": "!!"}),
    "option": (packed("-r /etc/passwd"), 422, "invalid_requirement", {"index": 0}),
    "url": (packed("six @ https://example.com/six.whl"), 422, "invalid_requirement", {"index": 0}),
    "vcs": (packed("git+https://example.com/six"), 422, "invalid_requirement", {"index": 0}),
    "local": (packed("../local"), 422, "invalid_requirement", {"index": 0}),
    "hash": (packed("six==1 --hash=sha256:00"), 422, "invalid_requirement", {"index": 0}),
    "unknown": (packed("loosse-aigbb"), 422, "package_not_found", {"package": "loosse-aigbb"}),
    "no version": (packed("loose==9"), 422, "version_not_found", {}),
    "yanked": (packed("pulled>=0.5"), 422, "version_not_found", {}),
    "within": (packed("loose==1.0", "loose==2.0"), 409, "dependency_conflict", {"give_way": []}),
    "with others": (packed("solid==1.0"), 409, "dependency_conflict", {"give_way": ["holder@1"]}),
    "by way of": (packed("wants-old"), 409, "dependency_conflict", {"give_way": ["holder@1"]}),
    "python": (packed("future"), 422, "python_version_mismatch", {}),
    "script": (
        {"source": good("# /// script", "# requires-python = '>=3.99'", "# ///")},
        422,
        "python_version_mismatch",
        {},
    ),
    "no wheel": (packed("raw"), 422, "build_not_allowed", {}),
    "foreign wheel": (packed("elsewhere"), 422, "build_not_allowed", {}),
    "lost file": (packed("gone"), 503, "index_unavailable", {}),
    "altered file": (packed("altered"), 500, "build_failed", {}),
    # the import
    "raises": ({"source": good("1 / 0")}, 422, "import_failed", {"exception": "ZeroDivisionError: division by zero"}),
    "exits": ({"source": good("import sys", "sys.exit(3)")}, 422, "import_failed", {"exception": "SystemExit: 3"}),
    "dies": ({"source": good("import os", "os._exit(3)")}, 422, "probe_crashed", {"function": "good"}),
    "killed": ({"source": good("import os", "os.kill(os.getpid(), 9)")}, 422, "probe_crashed", {"function": "good"}),
    "module": ({"source": good("import yaml")}, 422, "missing_dependency", {"fix": {"packages": ["PyYAML"]}}),
}


@pytest.mark.parametrize(("body", "status", "code", "told"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_registered_changes_nothing_and_leaves_a_line_in_history(
    standing: httpx2.Client, indexed: Server, body: dict[str, Any], status: int, code: str, told: dict[str, Any]
) -> None:
    before, last = picture(standing, indexed), newest(standing)
    refused = problem(standing.post("/register", json=body), status, code)
    assert {name: refused.get(name) for name in told} == told
    assert picture(standing, indexed) == before
    lines = [line for line in standing.get("/history").json() if line["id"] > last]
    assert [(line["outcome"], line["version"]) for line in lines] == [(code, None)]


def newest(client: httpx2.Client) -> int:
    """The id of the newest line of history."""
    number: int = client.get("/history", params={"limit": 1}).json()[0]["id"]
    return number


JSON = {"Content-Type": "application/json"}

# Method, path, what is sent, status and code: these are refused before anything looks at functions.
MALFORMED: dict[str, tuple[str, str, dict[str, Any], int, str]] = {
    "no JSON": ("POST", "/register", {"content": b"{", "headers": JSON}, 400, "invalid_json"),
    "no UTF-8": ("POST", "/register", {"content": b"\xff\xfe", "headers": JSON}, 400, "invalid_json"),
    "deep": ("POST", "/register", {"content": b"[" * 200_000, "headers": JSON}, 400, "invalid_json"),
    "no type": ("POST", "/register", {"content": b'{"source": "def f(): pass"}'}, 415, "wrong_content_type"),
    "form": ("POST", "/register", {"data": {"source": "def f(): pass"}}, 415, "wrong_content_type"),
    "list": ("POST", "/register", {"json": []}, 422, "invalid_request"),
    "no source": ("POST", "/register", {"json": {"name": "f"}}, 422, "invalid_request"),
    "misspelt": ("POST", "/register", {"json": {"source": good(), "packges": []}}, 422, "invalid_request"),
    "surrogate": ("POST", "/register", {"content": rb'{"source": "\ud800"}', "headers": JSON}, 422, "invalid_request"),
    "large": ("POST", "/register", {"content": b"x" * 2_000_000, "headers": JSON}, 413, "body_too_large"),
    "no functions": ("POST", "/register/batch", {"json": {"functions": []}}, 422, "invalid_request"),
    "condition": ("POST", "/register", {"json": {"source": good(), "on_conflict": "x"}}, 422, "invalid_request"),
    "described otherwise": (
        "POST",
        "/register",
        {"json": {"name": "good", "source": good(), "description": {"name": "bad", "description": "x"}}},
        422,
        "invalid_name",
    ),
    "long key": (
        "POST",
        "/register",
        {"json": {"source": good()}, "headers": {"Idempotency-Key": "k" * 201}},
        422,
        "invalid_request",
    ),
    "version zero": ("POST", "/functions/keeper/activate", {"json": {"version": 0}}, 422, "invalid_request"),
    "page zero": ("GET", "/functions", {"params": {"page": 0}}, 422, "invalid_request"),
    "no number": ("GET", "/functions/keeper/versions/x", {}, 422, "invalid_request"),
    "no version": ("GET", "/functions/keeper/versions/9", {}, 404, "unknown_version"),
    "no other version": ("GET", "/functions/keeper/versions/1/diff?against=9", {}, 404, "unknown_version"),
    "versions of none": ("GET", "/functions/keepr/versions", {}, 404, "unknown_function"),
    "none": ("GET", "/functions/keepr", {}, 404, "unknown_function"),
    "snippets of none": ("GET", "/functions/keepr/snippets", {}, 404, "unknown_function"),
    "tools of none": ("GET", "/tools?names=keepr", {}, 404, "unknown_function"),
    "format": ("GET", "/tools?format=yaml", {}, 422, "invalid_request"),
    "path": ("POST", "/registr", {"json": {}}, 404, "not_found"),
    "method": ("PUT", "/register", {"json": {}}, 405, "method_not_allowed"),
}


@pytest.mark.parametrize(("method", "path", "sent", "status", "code"), MALFORMED.values(), ids=MALFORMED)
def test_a_faulty_request_changes_nothing_and_leaves_no_line(
    standing: httpx2.Client, indexed: Server, method: str, path: str, sent: dict[str, Any], status: int, code: str
) -> None:
    before, last = picture(standing, indexed), newest(standing)
    problem(standing.request(method, path, **sent), status, code)
    assert (picture(standing, indexed), newest(standing)) == (before, last)


TWO = [{"source": good()}, {"source": "def Good(): pass"}]
BAD_ONE = [{"source": good()}, {"source": "def f(:"}, {"source": "def g(): pass"}]

# Method, path, body, status, code, and the functions whose lines history gets.
OTHERS: dict[str, tuple[str, str, Any, int, str, list[str | None]]] = {
    "twins": ("POST", "/register/batch", {"functions": TWO}, 409, "name_clash", ["Good", "good"]),
    "one of three": ("POST", "/register/batch", {"functions": BAD_ONE}, 422, "syntax_error", [None, None, None]),
    "activate none": ("POST", "/functions/keepr/activate", {"version": 1}, 404, "unknown_function", ["keepr"]),
    "activate": ("POST", "/functions/keeper/activate", {"version": 9}, 404, "unknown_version", ["keeper"]),
    "delete none": ("DELETE", "/functions/keepr", None, 404, "unknown_function", ["keepr"]),
    "delete used": ("DELETE", "/functions/keeper", None, 409, "would_break", ["keeper"]),
}


@pytest.mark.parametrize(("method", "path", "body", "status", "code", "names"), OTHERS.values(), ids=OTHERS)
def test_any_other_change_that_is_refused_changes_nothing(
    standing: httpx2.Client,
    indexed: Server,
    method: str,
    path: str,
    body: Any,
    status: int,
    code: str,
    names: list[str | None],
) -> None:
    before, last = picture(standing, indexed), newest(standing)
    problem(standing.request(method, path, json=body), status, code)
    assert picture(standing, indexed) == before
    lines = [line for line in standing.get("/history").json() if line["id"] > last]
    assert [(line["name"], line["outcome"]) for line in lines] == [(name, code) for name in names]


def test_nothing_of_a_source_distribution_has_run(standing: httpx2.Client, index: Any) -> None:
    problem(standing.post("/register", json=packed("raw")), 422, "build_not_allowed")
    assert not (index.folder / "ran").exists()
