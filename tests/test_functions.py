"""From a draft to a function: what is accepted, what is refused and why. Nothing of the source ever runs."""

from __future__ import annotations

import builtins
import errno
import hashlib
import json
import keyword
import os
import platform
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import docstring_parser
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kernels.errors import AigbbError, InvalidRequirement, ProcessUnavailable, PythonVersionMismatch
from kernels.sandbox import Child
from server.call_policy import Effects
from server.errors import (
    InvalidBound,
    InvalidEnv,
    InvalidName,
    InvalidSchema,
    InvalidTag,
    NoSuchDefinition,
    SourceTooLarge,
    SourceUnparsable,
    SyntaxRefused,
    UnsupportedSignature,
)
from server.functions import (
    Declared,
    Draft,
    Function,
    Parsed,
    Warn,
    check_name,
    parse,
    parse_all,
)
from server.reading import FILES, read, script_block
from server.source_reader import MAX_SOURCE, READER, READING, start_reader
from server.variables import check_env

DEF = "def f(x: int) -> int:\n    'Doubles.'\n    return 2 * x\n"


async def refused(source: str, **more: Any) -> AigbbError:
    """The error that a draft deserves."""
    with pytest.raises(AigbbError) as caught:
        await parse(Draft(source, **more))
    json.dumps([caught.value.detail, caught.value.hint, caught.value.extra])
    return caught.value


def codes(parsed: Parsed) -> list[str]:
    """The codes of the warnings."""
    return [warning.code for warning in parsed.warnings]


# -- the normal case


@pytest.mark.anyio
async def test_a_function_is_read_with_all_that_it_says() -> None:
    parsed = await parse(Draft(DEF, "f", ["six>=1", "Six >= 1"], {"KEY": "hush", "A": ""}))
    x = {"name": "x", "kind": "named", "typed": True, "optional": False, "computed_default": False}
    expected = Function(
        "f", DEF, ("six>=1",), ("A", "KEY"), "Doubles.", "f(x: int) -> int", written=(x,), effects="read", uses=()
    )
    assert parsed.function == expected
    assert parsed.warnings == ()


@pytest.mark.anyio
async def test_the_name_may_be_left_out_beside_private_helpers() -> None:
    source = f"import math\nLIMIT = 3\nclass _C: pass\ndef _help(*a): pass\n{DEF}"
    assert (await parse(Draft(source))).function.name == "f"


@pytest.mark.anyio
async def test_one_of_several_is_chosen_by_name() -> None:
    source = DEF + "def g(y): pass\n"
    assert (await parse(Draft(source, "g"))).function.signature == "g(y)"
    error = await refused(source)
    assert isinstance(error, NoSuchDefinition)
    assert error.extra["candidates"] == ["f", "g"]


@pytest.mark.anyio
async def test_the_last_definition_of_a_name_counts() -> None:
    assert (await parse(Draft(DEF + "def f(y): pass\n"))).function.signature == "f(y)"


@pytest.mark.anyio
async def test_async_and_keyword_only_and_decorated_functions_are_fine(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    run = f"__import__('pathlib').Path({str(touched)!r}).touch()"
    source = f"{run}\n@(lambda g: {run} or g)\nasync def f(a, *, b: str = ({run}, 'x')[1]) -> {run}:\n    '''Doc.'''\n"
    parsed = await parse(Draft(source))
    assert parsed.function.signature.startswith("async f(a, *, b: str = ")
    assert [p["name"] for p in parsed.function.written if p["computed_default"]] == ["b"]
    assert not touched.exists()


@pytest.mark.anyio
async def test_line_ends_are_kept_and_a_byte_order_mark_is_not() -> None:
    parsed = await parse(Draft("\ufeffdef f():\r\n    'd'\r\n"))
    assert parsed.function.source == "def f():\r\n    'd'\r\n"
    assert parsed.function.description == "d"


@pytest.mark.anyio
async def test_equal_digests_mean_the_same_function() -> None:
    one = (await parse(Draft(DEF, packages=["six", "numpy"], env={"B": "1", "A": "2"}))).function
    same = (await parse(Draft("\ufeff" + DEF, "f", ["numpy", "SIX "], {"A": "3", "B": "4"}))).function
    assert one.digest == same.digest
    for other in (Draft(DEF + "\n"), Draft(DEF, packages=["six"]), Draft(DEF, env={"A": ""})):
        assert (await parse(other)).function.digest != one.digest


@pytest.mark.anyio
async def test_the_author_is_warned_of_what_models_will_miss() -> None:
    source = "def calendar(a, b=print(), *, c: int = 3): pass"
    parsed = await parse(Draft(source, packages=["six ; python_version < '3'"]))
    assert codes(parsed) == [
        "missing_docstring",
        "shadows_module",
        "untyped_parameter",
        "untyped_parameter",
        "dynamic_default",
        "requirement_not_applicable",
    ]


@pytest.mark.anyio
async def test_a_description_is_always_text_that_can_be_sent() -> None:
    parsed = await parse(Draft('def f():\n    "a \\ud800 b \\0"\n'))
    assert parsed.function.description.encode("utf-8")


# -- names


PLAIN = re.compile("[A-Za-z][A-Za-z0-9_]{0,63}")
RESERVED = {"aigbb", "aigbb_functions", "functions", "register", "execute", "con", "nul", "prn", "aux"}
NOTEBOOK = {"In", "Out", "get_ipython", "display"}


def is_good(name: str) -> bool:
    """The rule, said once more."""
    taken = keyword.iskeyword(name) or hasattr(builtins, name) or name.lower() in RESERVED or name in NOTEBOOK
    return PLAIN.fullmatch(name) is not None and not taken


names = st.one_of(
    st.text(max_size=70),
    st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,70}\n?", fullmatch=True),
    st.sampled_from([*keyword.kwlist, *dir(builtins), *RESERVED, *NOTEBOOK, *keyword.softkwlist]),
)


@given(names)
@example("a" * 64)
@example("a" * 65)
@example("f\n")
@example("match")
def test_a_name_is_accepted_exactly_by_the_rule(name: str) -> None:
    try:
        check_name(name)
    except InvalidName as error:
        assert not is_good(name)
        assert error.extra["reason"] in ("pattern", "keyword", "shadows_builtin", "reserved")
        assert is_good(error.extra.get("fix", {"name": "good"})["name"])
        assert len(error.detail) < 600
    else:
        assert is_good(name)


@pytest.mark.anyio
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(name=names.filter(str.isidentifier))
async def test_a_definition_is_accepted_exactly_by_the_rule(name: str) -> None:
    """Python itself folds look-alike letters: what counts is the name that it defines."""
    source = f"def {name}(): pass"
    try:
        parsed = await parse(Draft(source))
    except (InvalidName, NoSuchDefinition, SyntaxRefused):
        assert not is_good(name)
    else:
        assert is_good(parsed.function.name)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "pattern"),
        ("../f", "pattern"),
        ("a/b", "pattern"),
        ("a.b", "pattern"),
        ("a-b", "pattern"),
        ("1a", "pattern"),
        ("_f", "pattern"),
        ("__init__", "pattern"),
        ("f\n", "pattern"),
        ("f\0", "pattern"),
        ("\uff46oo", "pattern"),
        ("\u0430dd", "pattern"),
        ("\ud800", "pattern"),
        ("a" * 65, "pattern"),
        ("class", "keyword"),
        ("None", "keyword"),
        ("print", "shadows_builtin"),
        ("list", "shadows_builtin"),
        ("Execute", "reserved"),
        ("NUL", "reserved"),
        ("get_ipython", "reserved"),
    ],
)
def test_a_bad_name_comes_with_its_reason(name: str, reason: str) -> None:
    with pytest.raises(InvalidName) as caught:
        check_name(name)
    assert caught.value.extra["reason"] == reason


@pytest.mark.parametrize(("name", "suggestion"), [("get-weather", "get_weather"), ("_f", "f"), ("a" * 70, "a" * 64)])
def test_a_name_that_would_do_is_suggested(name: str, suggestion: str) -> None:
    with pytest.raises(InvalidName) as caught:
        check_name(name)
    assert caught.value.extra["fix"] == {"name": suggestion}


@pytest.mark.anyio
@pytest.mark.parametrize(("written", "defined"), [("\uff46oo", "foo"), ("\ufb01nd", "find")])
async def test_look_alike_letters_define_the_plain_name(written: str, defined: str) -> None:
    assert (await parse(Draft(f"def {written}(): pass"))).function.name == defined
    assert isinstance(await refused(f"def {written}(): pass", name="other"), NoSuchDefinition)


@pytest.mark.anyio
async def test_look_alike_letters_do_not_smuggle_in_a_builtin() -> None:
    error = await refused("def \u017fum(): pass")
    assert isinstance(error, InvalidName)
    assert error.extra["reason"] == "shadows_builtin"


# -- sources


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("source", "line", "text"),
    [
        ("def f(:\n", 1, "def f(:"),
        ("x = 1\ndef f():\nreturn 2\n", 3, "return 2"),
        ("def f():\n    pass\n  x = 1\n", 3, "x = 1"),
        ("def f(): pass\n'unclosed\n", 2, "'unclosed"),
        ("def f(): pass\nx = " + "1" * 5000, 2, "1111"),
        ("\ufeff\ufeffdef f(): pass", 1, "def f"),
        ("def f(): pass\n" + "(" * 300 + "\n", 2, "((("),
    ],
)
async def test_a_syntax_error_says_where(source: str, line: int, text: str) -> None:
    error = await refused(source)
    assert isinstance(error, SyntaxRefused)
    assert error.extra["location"]["line"] == line
    assert text in error.extra["location"]["text"]
    assert len(error.extra["location"]["text"]) <= 200


@pytest.mark.anyio
@pytest.mark.parametrize(
    "extreme",
    [
        "x = '\0'",
        "x = '\ud800'",
        "x = " + "-" * 5_000 + "1",
        "x = " + "-" * 100_000 + "1",
        "x = " + "+".join(["1"] * 30_000),
        "if x: pass\n" + "elif x: pass\n" * 5_000,
        "def g(x=" + "-" * 900 + "1): pass",
        "def g(x=0x" + "f" * 9_000 + "): pass",
        "x" + ".x" * 50_000,
        "def g(" + ",".join(["a"] * 100_000) + "): pass",
        "# /// script\n# x = " + "[" * 20_000 + "\n# ///",
    ],
    ids=["nul", "surrogate", "unary", "more unary", "sum", "elif", "default", "hex", "dots", "parameters", "toml"],
)
async def test_an_extreme_source_is_refused_and_harms_nobody(extreme: str) -> None:
    error = await refused(f"{extreme}\ndef f(): pass\n", name="f")
    assert isinstance(error, SourceUnparsable)
    assert error.status == 422


@pytest.mark.anyio
async def test_the_size_of_a_source_is_bounded_in_bytes() -> None:
    fits = "def f(): pass\n#" + "é" * ((MAX_SOURCE - 15) // 2)
    assert (await parse(Draft(fits))).function.source == fits
    assert isinstance(await refused(fits + "éé"), SourceTooLarge)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("source", "name", "candidates"),
    [
        ("", None, []),
        ("# nothing\n", None, []),
        ("class C:\n    def f(self): pass\n", None, ["C"]),
        ("f = lambda: 1\n", None, ["f"]),
        ("f = lambda: 1\n", "f", ["f"]),
        ("if True:\n    def f(): pass\n", "f", []),
        ("def outer():\n    def f(): pass\n", "f", ["outer"]),
        ("def _f(): pass\n", None, []),
        (DEF, "F", ["f"]),
    ],
)
async def test_without_the_function_the_candidates_are_named(
    source: str, name: str | None, candidates: Sequence[str]
) -> None:
    error = await refused(source, name=name)
    assert isinstance(error, NoSuchDefinition)
    assert error.extra["candidates"] == candidates


@pytest.mark.anyio
async def test_parameters_that_cannot_be_given_by_name_are_refused_by_name() -> None:
    error = await refused("def f(a, b=1, /, c=2, *rest, d, **more): pass")
    assert isinstance(error, UnsupportedSignature)
    assert error.extra["parameters"] == [
        {"parameter": "a", "kind": "positional-only"},
        {"parameter": "b", "kind": "positional-only"},
        {"parameter": "rest", "kind": "*args"},
        {"parameter": "more", "kind": "**kwargs"},
    ]


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(source: str) -> None:
    facts = read(source)
    assert ("error" in facts) != ("definitions" in facts)
    json.dumps(facts, default=str)


def test_the_reader_answers_json_for_each_source() -> None:
    argv = [sys.executable, "-I", "-S", str(READER), str(Path(docstring_parser.__file__).parents[1])]
    sent = json.dumps([DEF, "def"]).encode()
    done = subprocess.run(argv, input=sent, env={}, capture_output=True, check=True)
    began, _, answer = done.stdout.partition(b"\n")
    assert began == READING
    facts, broken = json.loads(answer)
    assert facts["definitions"][0]["description"] == "Doubles."
    assert broken["error"] == "syntax_error"
    assert done.stderr == b""


@pytest.mark.anyio
async def test_a_reader_that_gets_no_time_is_not_the_sources_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    async def stopped() -> Child:
        child = await start_reader()
        os.kill(child.process.pid, signal.SIGSTOP)
        return child

    async def killed() -> Child:
        child = await start_reader()
        child.process.kill()
        return child

    async def refused_by_the_system() -> Child:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr("server.source_reader.READER_TIMEOUT", 0.2)
    for reader, told in ((stopped, "longer than 0.2 s"), (refused_by_the_system, "Resource temporarily unavailable")):
        found = await parse_all([Draft(DEF), Draft("x = 1")], reader)
        for error in found:
            assert isinstance(error, ProcessUnavailable)
            assert error.status == 503 and told in error.detail and error.extra["retry_after"]
    monkeypatch.undo()
    (error,) = await parse_all([Draft(DEF)], killed)
    assert isinstance(error, ProcessUnavailable)


@pytest.mark.anyio
async def test_a_source_that_takes_all_the_processors_time_is_refused(tmp_path: Path) -> None:
    slow = tmp_path / "server" / "reading.py"
    slow.parent.mkdir()
    for file in FILES:
        (slow.parent / file.name).write_bytes(file.read_bytes())
    endless = READER.read_text().replace("ast.parse(source)", "[0 for _ in iter(int, 1)]")
    slow.write_text(endless.replace("SECONDS = 5", "SECONDS = 1"))

    async def reader() -> Child:
        argv = [sys.executable, "-I", "-S", str(slow), str(Path(docstring_parser.__file__).parents[1])]
        return await Child.start(argv, env={})

    (error,) = await parse_all([Draft(DEF)], reader)
    assert isinstance(error, SourceUnparsable)


# -- inline script metadata


def script(*lines: str) -> str:
    """A source with a script block."""
    return "# /// script\n" + "".join(f"# {line}\n" for line in lines) + "# ///\n" + DEF


@pytest.mark.anyio
async def test_the_blocks_packages_join_the_others() -> None:
    source = script('requires-python = ">=3.8"', "dependencies = [", '  "Numpy<3",', '  "six",', "]")
    parsed = await parse(Draft(source, packages=["six", "pandas"]))
    assert parsed.function.packages == ("numpy<3", "pandas", "six")
    assert parsed.function.source == source


@pytest.mark.anyio
async def test_the_block_is_read_with_other_line_ends_too() -> None:
    parsed = await parse(Draft(script('dependencies = ["six"]').replace("\n", "\r\n")))
    assert parsed.function.packages == ("six",)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "lines",
    [
        ["[tool.uv]", 'index-url = "http://127.0.0.1:9"'],
        ['dependencies = "six"'],
        ["dependencies = [1]"],
        ['dependencies = ["six @ http://127.0.0.1:9/six.whl"]'],
        ['dependencies = ["-r /etc/passwd"]'],
        ['requires-python = "new"'],
        ["requires-python = 3.11"],
    ],
)
async def test_a_block_with_anything_else_is_refused(lines: Sequence[str]) -> None:
    assert isinstance(await refused(script(*lines)), InvalidRequirement)


@pytest.mark.anyio
async def test_another_python_is_refused() -> None:
    error = await refused(script('requires-python = ">=3.99"'))
    assert isinstance(error, PythonVersionMismatch)
    assert ">=3.99" in error.detail
    assert platform.python_version() in error.detail


@pytest.mark.anyio
async def test_a_block_that_is_no_toml_and_a_second_block_say_where() -> None:
    bad = await refused("x = 1\n" + script("dependencies = ["))
    assert isinstance(bad, SyntaxRefused)
    assert bad.extra["location"]["line"] == 2
    for end in ("\n", "\r\n"):
        twice = await refused(("x = 1\n" + 2 * script("dependencies = []")).replace("\n", end))
        assert isinstance(twice, SyntaxRefused)
        assert twice.extra["location"]["line"] == 8


def test_a_block_that_never_closes_or_is_of_another_type_is_a_comment() -> None:
    assert script_block("# /// script\n# dependencies = ['six']\n") is None
    assert script_block("# /// other\n# dependencies = ['six']\n# ///\n") is None
    assert script_block(DEF) is None


# -- packages and variables


@pytest.mark.anyio
async def test_a_bad_package_line_is_named_by_its_index() -> None:
    error = await refused(DEF, packages=["six", "# why", "-r /etc/passwd"])
    assert isinstance(error, InvalidRequirement)
    assert error.extra == {"index": 2, "requirement": "-r /etc/passwd"}


@pytest.mark.parametrize("name", ["KEY", "_x", "api_key2", "A" * 128, "PYTHA", "LDAP_URL", "HOMEPAGE"])
def test_a_plain_variable_is_accepted(name: str) -> None:
    check_env({name: "any\nvalue é \U0001f600" + "x" * 30_000})


@pytest.mark.parametrize(
    "name",
    [
        *["", "1A", "A-B", "A B", "A=B", "A\n", "A\0", "\u0391", "A" * 129],
        *["PATH", "path", "HOME", "VIRTUAL_ENV", "PYTHONPATH", "PYTHONSTARTUP", "pythonhome", "LD_PRELOAD"],
        *["DYLD_INSERT_LIBRARIES", "JPY_PARENT_PID", "JUPYTER_PATH", "IPYTHONDIR", "AIGBB_GENERATION", "MPLBACKEND"],
    ],
)
def test_a_variable_that_is_none_or_steers_the_interpreter_is_refused(name: str) -> None:
    with pytest.raises(InvalidEnv):
        check_env({"FINE": "1", name: "x"})


@pytest.mark.parametrize("value", ["\0", "a\0b", "x" * (32 * 1024 + 1), "\ud800"])
def test_a_value_that_is_none_is_refused_and_not_repeated(value: str) -> None:
    with pytest.raises(InvalidEnv) as caught:
        check_env({"KEY": value})
    assert value not in caught.value.detail
    assert caught.value.extra == {"name": "KEY"}


@pytest.mark.anyio
@pytest.mark.parametrize(("env", "name", "kind"), [({"PATH": "x"}, None, InvalidEnv), ({}, "no-name", InvalidName)])
async def test_names_and_variables_are_looked_at_before_the_source(
    env: Mapping[str, str], name: str | None, kind: type[AigbbError]
) -> None:
    assert isinstance(await refused("not python at all", name=name, env=env), kind)


# -- what the docstring says

GOOGLE = """Find a thing.

Looks everywhere.

Args:
    where (str): The place,
        in full.
    deep: How deep.

Returns:
    What was found.

Raises:
    KeyError: If nothing is there.
"""
NUMPY = """Find a thing.

Looks everywhere.

Parameters
----------
where : str
    The place,
    in full.
deep : int, optional
    How deep.

Returns
-------
dict
    What was found.
"""
SPHINX = """Find a thing.

Looks everywhere.

:param where: The place,
    in full.
:type where: str
:param int deep: How deep.
:returns: What was found.
:raises KeyError: If nothing is there.
"""


@pytest.mark.anyio
@pytest.mark.parametrize("doc", [GOOGLE, NUMPY, SPHINX], ids=["google", "numpy", "sphinx"])
async def test_parameters_have_the_text_of_the_docstring(doc: str) -> None:
    indented = doc.replace("\n", "\n    ")
    parsed = await parse(Draft(f'def f(where: str, deep: int = 1) -> dict:\n    """{indented}"""\n'))
    assert parsed.function.description == "Find a thing.\n\nLooks everywhere."
    assert parsed.written.texts == {"where": "The place,\nin full.", "deep": "How deep."}
    assert parsed.written.result == "What was found."


@pytest.mark.anyio
@pytest.mark.parametrize(
    "doc", ["", "Args:", "Args:\n    :", ":param", "Parameters\n----------", "Returns:\n  x: y: z", "@param x"]
)
async def test_odd_docstrings_are_descriptions(doc: str) -> None:
    parsed = await parse(Draft(f"def f(x): {doc!r}"))
    assert parsed.written.texts.keys() <= {"x", ""}
    assert isinstance(parsed.function.description, str)


@pytest.mark.anyio
async def test_a_docstring_that_would_take_long_to_read_is_taken_as_it_is() -> None:
    doc = "x" + "\n" * 100_000 + "Args:\n    a: The a."
    parsed = await parse(Draft(f"def f(a): {doc!r}"))
    assert parsed.function.description == doc
    assert parsed.written.texts == {}


# -- what the author declares

OBJECT = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


@pytest.mark.anyio
async def test_what_is_declared_wins() -> None:
    declared = Declared("Says so.", OBJECT, {"type": "string"})
    function = (await parse(Draft("def f(*args, **kwargs): 'Doc.'", declared=declared))).function
    assert function.description == "Says so."
    assert function.declared == declared


@pytest.mark.anyio
@pytest.mark.parametrize(
    "declared",
    [
        Declared(parameters={"type": "array"}),
        Declared(parameters={"type": "object", "properties": {"a": {"type": "number!"}}}),
        Declared(parameters={"type": "object", "properties": {"a": {"$ref": "http://localhost/x"}}}),
        Declared(returns={"type": 3}),
        Declared(returns={"$ref": "file:///etc/passwd"}),
    ],
)
async def test_a_declared_schema_that_is_none_is_refused(declared: Declared) -> None:
    with pytest.raises(InvalidSchema):
        await parse(Draft(DEF, declared=declared))


@pytest.mark.anyio
async def test_tags_are_sorted_and_each_is_there_once() -> None:
    assert (await parse(Draft(DEF, tags=["b", "a", "b"]))).function.tags == ("a", "b")


@pytest.mark.anyio
@pytest.mark.parametrize(
    "tags", [[""], ["a b"], ["a,b"], ["x" * 65], ["ok", "-no"], ["a\n"], [f"t{n}" for n in range(21)]]
)
async def test_a_tag_that_cannot_be_one_is_refused(tags: list[str]) -> None:
    with pytest.raises(InvalidTag):
        await parse(Draft(DEF, tags=tags))


@pytest.mark.anyio
async def test_bound_names_are_parameters() -> None:
    assert (await parse(Draft("def f(user_id, q): pass", bound=["user_id"]))).function.bound == ("user_id",)
    with pytest.raises(InvalidBound) as caught:
        await parse(Draft("def f(user_id, q): pass", bound=["userid"]))
    assert caught.value.extra == {"parameters": ["user_id", "q"], "fix": {"rename": {"userid": "user_id"}}}


@pytest.mark.anyio
async def test_bound_names_are_those_of_a_declared_schema() -> None:
    declared = Declared(parameters=OBJECT)
    assert (await parse(Draft("def f(**kwargs): pass", bound=["a"], declared=declared))).function.bound == ("a",)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "change",
    [
        {"source": DEF + "#"},
        {"packages": ["six"]},
        {"env": {"A": "1"}},
        {"tags": ["a"]},
        {"bound": ["x"]},
        {"declared": Declared("Says so.")},
        {"declared": Declared(parameters=OBJECT)},
        {"declared": Declared(returns={})},
        {"effects": "read"},
        {"effects": "unknown"},
        {"confirm": "never"},
    ],
)
async def test_whatever_the_author_gives_is_in_the_digest(change: dict[str, Any]) -> None:
    plain, changed = (await parse(Draft(DEF))).function, (await parse(replace(Draft(DEF), **change))).function
    assert plain.digest != changed.digest


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("default", "computed"),
    [("3", False), ("now()", True), ("[f(x) for x in y]", True), ("Field(3)", False), ("pydantic.Field(f())", False)],
)
async def test_a_default_is_computed_when_it_calls_something(default: str, computed: bool) -> None:
    parsed = await parse(Draft(f"def f(x: int = {default}): 'Doc.'", effects="read"))
    assert [p["computed_default"] for p in parsed.function.written] == [computed]
    assert codes(parsed) == (["dynamic_default"] if computed else [])


# -- imports


@pytest.mark.anyio
async def test_imports_that_happen_in_any_case_are_known() -> None:
    source = """
import os, yaml.nodes
from sklearn.svm import SVC
from . import sibling
from aigbb_functions import other
if True:
    import maybe
try:
    import fast
except ImportError:
    fast = None

def f():
    import requests
    def g():
        from PIL import Image
    try:
        import optional
    finally:
        pass
"""
    assert (await parse(Draft(source, "f"))).written.imports == ("PIL", "requests", "sklearn", "yaml")


# -- effects


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("lines", "changes"),
    [
        ("import re, json, collections.abc, urllib.parse", []),
        ("import os\nX = os.environ['HOME']", []),
        ("from urllib import parse, request", ["line 1: urllib.request"]),
        ("if False: import requests\nCART = {}\ndef f(x): CART[x] = 1", ["line 1: requests", "line 3: CART[...]"]),
    ],
)
async def test_effects_are_inferred_and_a_warning_names_what_prevents_it(lines: str, changes: list[str]) -> None:
    parsed = await parse(Draft(f"{lines}\ndef function() -> None: 'Doc.'\n", "function"))
    assert (parsed.function.effects, parsed.function.declared_effects) == ("unknown" if changes else "read", None)
    said = f"It could change something ({'; '.join(changes)}), so a model's call of it waits for a person."
    expected = [Warn("undeclared_effects", f"{said} Declare `effects`: read or write.")] if changes else []
    assert list(parsed.warnings) == expected


@pytest.mark.anyio
async def test_a_warning_names_a_few_of_many_changes() -> None:
    parsed = await parse(Draft("import ftplib, requests, select, ssl, socket, pty\ndef f(): 'Doc.'"))
    assert "(line 1: ftplib; line 1: requests; " in parsed.warnings[0].message
    assert "; line 1: socket; ...)" in parsed.warnings[0].message


@pytest.mark.anyio
@pytest.mark.parametrize("effects", ["read", "write", "unknown"])
@pytest.mark.parametrize("source", ["def f(): 'Doc.'", "import os\ndef f(): 'Doc.'"])
async def test_declared_effects_win_without_a_warning(source: str, effects: Effects) -> None:
    parsed = await parse(Draft(source, effects=effects, confirm="always"))
    assert (parsed.function.effects, parsed.function.declared_effects) == (effects, effects)
    assert parsed.function.confirm == "always"
    assert parsed.warnings == ()


@pytest.mark.anyio
async def test_what_declares_nothing_keeps_its_digest() -> None:
    given = ["f", DEF, [], [], [], [], {"description": None, "parameters": None, "returns": None}]
    expected = hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()
    assert (await parse(Draft(DEF))).function.digest == expected


@pytest.mark.anyio
async def test_deeply_nested_functions_are_read_in_time() -> None:
    nested = "".join("\t" * depth + "def f():\n" for depth in range(99)) + "\t" * 99 + "x=1;" * 50_000
    parsed = await parse(Draft(nested))
    assert [warning.code for warning in parsed.warnings] == ["missing_docstring", "undeclared_effects"]
    assert "too involved to follow" in parsed.warnings[1].message


# -- many at once


@pytest.mark.anyio
async def test_many_are_read_together_and_one_that_is_bad_harms_no_other() -> None:
    bad = {3: "def", 60: "\0", 61: "-" * 100_000 + "1", 62: "def f(): '\ud800'", 63: "x = 1"}
    drafts = [Draft(bad.get(n, f"def f{n}(): pass")) for n in range(70)]
    found = await parse_all(drafts)
    refusals = {n: type(one) for n, one in enumerate(found) if isinstance(one, AigbbError)}
    assert refusals == {
        3: SyntaxRefused,
        60: SourceUnparsable,
        61: SourceUnparsable,
        62: SourceUnparsable,
        63: NoSuchDefinition,
    }
    assert [one.function.name for one in found if isinstance(one, Parsed)] == [
        f"f{n}" for n in range(70) if n not in bad
    ]
