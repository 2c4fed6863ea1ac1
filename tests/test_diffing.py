"""The difference between two versions, to read and to apply."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.diffing import source_diff
from server.functions import Declared, Function

SOURCE = "def f(x: int) -> int:\n    return x\n"


def function(source: str = SOURCE, **fields: Any) -> Function:
    """A function with this source."""
    return replace(Function("f", source, (), (), "", "f()"), **fields)


def diff(old: Function, new: Function) -> str:
    """Between two versions."""
    return source_diff(old, new, "f@1", "f@2")


def test_nothing_differs() -> None:
    assert diff(function(), function(description="read anew", signature="other")) == ""


def test_shows_the_lines_that_differ() -> None:
    assert diff(function(), function("def f(x: int) -> int:\n    return x + 1\n")) == (
        "--- f@1\n+++ f@2\n@@ -1,2 +1,2 @@\n def f(x: int) -> int:\n-    return x\n+    return x + 1\n"
    )


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"packages": ("six",)}, {"packages": ("attrs", "six>=1")}, "-# packages: six\n+# packages: attrs, six>=1\n"),
        ({}, {"env": ("KEY",)}, "+# env: KEY\n"),
        ({"secrets": ("KEY",)}, {"secrets": ("KEY", "USER")}, "-# secrets: KEY\n+# secrets: KEY, USER\n"),
        ({"tags": ("a", "b")}, {}, "-# tags: a, b\n"),
        ({}, {"bound": ("user_id",)}, "+# bound: user_id\n"),
        (
            {"declared": Declared(description="one\ntwo ü")},
            {"declared": Declared(parameters={"type": "object", "a": 1})},
            '-# declared.description: "one\\ntwo ü"\n+# declared.parameters: {"a": 1, "type": "object"}\n',
        ),
        ({}, {"declared": Declared(returns={})}, "+# declared.returns: {}\n"),
        ({}, {"effects": "read"}, ""),  # inferred: the source tells why
        ({"effects": "read"}, {"effects": "write", "declared_effects": "write"}, "+# effects: write\n"),
        ({"confirm": "always"}, {"confirm": "never"}, "-# confirm: always\n+# confirm: never\n"),
        ({"tags": ("a\n--- b",)}, {}, "-# tags: a\\n--- b\n"),
    ],
)
def test_shows_what_else_the_author_changed(before: dict[str, Any], after: dict[str, Any], expected: str) -> None:
    assert diff(function(**before), function(**after)) == expected


def test_what_else_changed_stands_before_the_source() -> None:
    assert diff(function("a\n", tags=("x",)), function("b\n")) == (
        "-# tags: x\n--- f@1\n+++ f@2\n@@ -1 +1 @@\n-a\n+b\n"
    )


def test_changed_line_ends_are_a_change() -> None:
    assert diff(function("a\r\nb\r\n"), function("a\nb\r\n")) == ("--- f@1\n+++ f@2\n@@ -1,2 +1,2 @@\n-a\r\n+a\n b\r\n")


def test_says_where_the_last_line_has_no_end() -> None:
    assert diff(function("a\nb"), function("a\nb\n")) == (
        "--- f@1\n+++ f@2\n@@ -1,2 +1,2 @@\n a\n-b\n\\ No newline at end of file\n+b\n"
    )
    assert diff(function("a\nb"), function("c\nb")) == (
        "--- f@1\n+++ f@2\n@@ -1,2 +1,2 @@\n-a\n+c\n b\n\\ No newline at end of file\n"
    )


def test_other_signs_that_end_lines_in_python_do_not_end_them_here() -> None:
    assert diff(function("a\x0cb\u2028c\rd\n"), function("e\n")) == (
        "--- f@1\n+++ f@2\n@@ -1 +1 @@\n-a\x0cb\u2028c\rd\n+e\n"
    )


def applied(source: str, unified: str) -> str:
    """The source after a unified diff, which also must fit it."""
    unended = "\n\\ No newline at end of file\n"
    lines, made, at = re.split(r"(?<=\n)", source), [], 0
    for hunk in re.split(r"^@@ ", unified, flags=re.MULTILINE)[1:]:
        head, body = hunk.split("\n", 1)
        start, count = re.match(r"-(\d+)(,0)?", head).groups()  # type: ignore[union-attr]
        first = int(start) - (count is None)
        made += lines[at:first]
        at = first
        for line in re.split(r"(?<=\n)(?!\\)", body):
            text = line[1 : -len(unended)] if line.endswith(unended) else line[1:]
            if line[:1] in (" ", "-") and line:
                assert lines[at] == text
                at += 1
            if line[:1] in (" ", "+") and line:
                made.append(text)
    return "".join(made + lines[at:])


LINES = st.lists(st.sampled_from(["a", "b", "", "@", "-", "+x", "\\", " ", "é\r", "\x0c", "--- f"]), max_size=12)


@given(LINES, LINES)
def test_the_diff_makes_the_new_source_of_the_old(old: list[str], new: list[str]) -> None:
    before, after = "\n".join(old), "\n".join(new)
    assert applied(before, diff(function(before), function(after))) == after
