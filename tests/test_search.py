"""Search: the function that is meant comes first, whatever is typed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.functions import Function
from server.registry import Version
from server.search import MAX_QUERY, Index


def version(name: str, description: str = "", tags: tuple[str, ...] = (), **properties: Any) -> Version:
    """A function as search sees it."""
    parameters = {"type": "object", "properties": properties}
    function = Function(name, "", (), (), description, f"{name}()", parameters, tags=tags)
    return Version(function, 1, "2026-01-01T00:00:00+00:00")


VERSIONS = [
    version(
        "get_weather",
        "Tell the weather of today.",
        ("outdoors",),
        city={"type": "string", "description": "A town, such as Zürich"},
        unit={"enum": ["celsius", "fahrenheit"]},
    ),
    version("forecast", "Tell how the weather of the coming days will be.", ("outdoors",), days={"type": "integer"}),
    version("sendMail", "Write to somebody; attachments are allowed.", ("office", "outgoing"), recipient={}),
    version("parseHTTPHeader", "Read one header line.", ("office",)),
    version("weekdays", "Count working days between two dates."),
    version(
        "plan_route",
        "Find a way on iPhone maps.",
        stops={"items": {"properties": {"postcode": {"description": "As on a letter"}}}, "type": "array"},
    ),
    version("tianqi", "查询城市的天气预报", ("outdoors",)),
]
INDEX = Index.of(reversed(VERSIONS))


def names(q: str | None, *tags: str) -> list[str]:
    """What is found, best first."""
    return [found.function.name for found in INDEX.search(q, tags)]


@pytest.mark.parametrize("q", [None, "", "  \n"])
def test_without_words_all_are_listed_by_name(q: str | None) -> None:
    ordered = ["forecast", "get_weather", "parseHTTPHeader", "plan_route", "sendMail", "tianqi", "weekdays"]
    assert names(q) == ordered


@pytest.mark.parametrize(
    ("q", "expected"),
    [
        ("get_weather", ["get_weather", "forecast"]),
        ("weather", ["get_weather", "forecast"]),
        ("days", ["forecast", "weekdays"]),
        ("weather coming days", ["forecast", "get_weather", "weekdays"]),
        ("mail", ["sendMail"]),
        ("SENDMAIL", ["sendMail"]),
        ("http", ["parseHTTPHeader"]),
        ("Header HTTP", ["parseHTTPHeader"]),
        ("outgoing", ["sendMail"]),
        ("recipients", ["sendMail"]),
        ("attachment", ["sendMail"]),
        ("counted", ["weekdays"]),
        ("zurich", ["get_weather"]),
        ("fahrenheit", ["get_weather"]),
        ("postcode", ["plan_route"]),
        ("letter", ["plan_route"]),
        ("iphone", ["plan_route"]),
        ("iPhone", ["plan_route"]),
        ("\N{FULLWIDTH LATIN SMALL LETTER M}ail", ["sendMail"]),
        ("天气", ["tianqi"]),
        ("今天的天气怎么样", ["tianqi"]),
        ("iphone天气", ["plan_route", "tianqi"]),
    ],
)
def test_finds_by_name_description_tags_and_parameters(q: str, expected: list[str]) -> None:
    assert names(q) == expected


@pytest.mark.parametrize(
    ("q", "expected"),
    [
        ("we", ["weekdays", "get_weather", "forecast"]),
        ("attachm", ["sendMail"]),
        ("pars hea", ["parseHTTPHeader"]),
        ("rout", ["plan_route"]),
    ],
)
def test_the_beginning_of_a_word_is_enough(q: str, expected: list[str]) -> None:
    assert names(q) == expected


@pytest.mark.parametrize(
    ("q", "first"), [("wether", "get_weather"), ("forcast", "forecast"), ("recipeint", "sendMail")]
)
def test_a_misspelt_word_finds_what_is_spelt_nearly_so(q: str, first: str) -> None:
    assert names(q)[0] == first


def test_whole_words_come_before_beginnings_of_words() -> None:
    index = Index.of([version("planetary", "planet planet planet"), version("zeta", "Has a plan.")])
    assert [found.function.name for found in index.search("plan")] == ["zeta", "planetary"]


def test_a_name_in_full_comes_before_all_that_fits_better() -> None:
    index = Index.of([version("mail", "Post."), version("mail_mail", "Mail mail mail.", ("mail",))])
    assert [found.function.name for found in index.search("mail")] == ["mail", "mail_mail"]


def test_a_name_counts_more_than_a_tag_and_that_more_than_a_text() -> None:
    index = Index.of(
        [
            version("a", x={"description": "Price."}),
            version("b", price={}),
            version("c", "Price."),
            version("d_price"),
            *(version(f"other_{n}") for n in range(9)),
        ]
    )
    assert [found.function.name for found in index.search("price")] == ["d_price", "c", "b", "a"]


@pytest.mark.parametrize(
    ("q", "tags", "expected"),
    [
        (None, ("outdoors",), ["forecast", "get_weather", "tianqi"]),
        (None, ("office", "outgoing"), ["sendMail"]),
        ("header", ("office",), ["parseHTTPHeader"]),
        ("header", ("outdoors",), []),
        (None, ("nowhere",), []),
    ],
)
def test_tags_narrow_down(q: str | None, tags: tuple[str, ...], expected: list[str]) -> None:
    assert names(q, *tags) == expected


@pytest.mark.parametrize(
    "q",
    [
        '"',
        '"weather',
        "''; DROP TABLE found; --",
        "\N{GRINNING FACE}",
        "\0",
        "*",
        "^",
        "{name} :",
        "-",
        "\ud800",
        "\u0300" * 50,
        "ﷺ" * 2_000,
        '"' * 10_000,
        "(" * 10_000,
    ],
    ids=ascii,
)
def test_signs_are_no_commands(q: str) -> None:
    assert len(INDEX.search(q)) <= len(VERSIONS)


@pytest.mark.parametrize("q", ["NOT weather", "weather NEAR/2 (", "name:weather", 'weather" OR "', "weather\0*"])
def test_what_looks_like_a_query_language_is_words(q: str) -> None:
    assert names(q)[:2] == ["get_weather", "forecast"]


@given(st.text())
def test_any_text_gets_an_answer(q: str) -> None:
    found = INDEX.search(q)
    assert len({one.function.name for one in found}) == len(found)


def test_only_the_beginning_of_a_long_query_is_read() -> None:
    assert names(" " * 5 + "mail " + "x" * 10_000) == ["sendMail"]
    assert names("." * MAX_QUERY + " mail") == []
    assert names(" ".join(f"x{n}" for n in range(100)) + " mail") == []


@given(st.recursive(st.none() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_any_schema_can_be_read(schema: Any) -> None:
    assert Index.of([version("f", p={"properties": schema, "enum": schema})]).search("f") != []


def test_a_parameter_may_be_named_like_a_keyword_of_schemas() -> None:
    index = Index.of([version("f", properties={"description": "Land."}, enum={"title": "Acre"}), version("g")])
    for q in ("properties", "land", "enum", "acre"):
        assert [found.function.name for found in index.search(q)] == ["f"]


def test_deep_schemas_end() -> None:
    schema: dict[str, Any] = {"description": "bottom"}
    for _ in range(500):
        schema = {"items": schema}
    assert Index.of([version("f", p=schema)]).search("bottom") == []


def test_nothing_registered_finds_nothing() -> None:
    assert Index.of([]).search(None) == []
    assert Index.of([]).search("weather") == []


def test_threads_may_share_an_index() -> None:
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(names, ["weather", "mail", "nothing at all like it"] * 50))
    assert found[:2] == [["get_weather", "forecast"], ["sendMail"]]
    assert found == found[:3] * 50
