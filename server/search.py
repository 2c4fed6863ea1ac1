"""Ranked search over registered functions: SQLite's full-text index, in memory.

Calls compute for some milliseconds and may wait for each other: callers on an event loop use a thread.
"""

from __future__ import annotations

import re
import sqlite3
import threading
import unicodedata
import weakref
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from kernels.suggestions import suggestions
from server.functions import Function
from server.registry import Version

MAX_QUERY = 1_000
MAX_WORDS = 24
MAX_TEXT = 20_000
_MAX_DEPTH = 32
_MAX_BEGINNINGS = 32
_MAX_NEAR = 8  # looking for one takes some milliseconds

# What counts how much: a function's name, its tags, its description, its parameters' names and their texts.
_CREATE = (
    "CREATE VIRTUAL TABLE found USING fts5(name, tags, description, parameters, texts,"
    " tokenize = 'porter unicode61 remove_diacritics 2')"
)
_INSERT = "INSERT INTO found (rowid, name, tags, description, parameters, texts) VALUES (?, ?, ?, ?, ?, ?)"
_SELECT = "SELECT rowid FROM found WHERE found MATCH ? ORDER BY bm25(found, 10, 4, 4, 3, 1), rowid"

# Kana and Han: scripts that put no space between words.
_SIGNS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_UNSPACED = re.compile(f"([{_SIGNS}])")
_WORD = re.compile(rf"[{_SIGNS}]+|[^\W_{_SIGNS}]+")
_PART = re.compile(r"\w+")
# Where a word ends within a name: httpGet, HTTPGet, http_get.
_HUMP = re.compile(r"(?=[A-Z_])(?:(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|_+)")
_MARKS = re.compile("[\u0300-\u036f]")
_NO_TEXT = ("default", "const", "examples", "pattern", "format", "$ref")


class Index:
    """What is found among some versions. Threads may share it; it is never changed."""

    def __init__(self, versions: Sequence[Version], connection: sqlite3.Connection, words: Sequence[str]) -> None:
        self._versions = versions
        self._connection = connection
        self._words = words
        self._lock = threading.Lock()
        weakref.finalize(self, connection.close)

    @classmethod
    def of(cls, versions: Iterable[Version]) -> Index:
        """Read the versions in; 500 take some 40 ms."""
        ordered = sorted(versions, key=lambda version: version.function.name)
        rows = [_columns(version.function) for version in ordered]
        connection = sqlite3.connect(":memory:", check_same_thread=False)
        connection.execute(_CREATE)
        connection.executemany(_INSERT, [(number, *map(_spaced, row)) for number, row in enumerate(rows)])
        words = {word for row in rows for column in row for word in column.split()}
        return cls(ordered, connection, sorted(word for word in words if not _UNSPACED.match(word)))

    def search(self, q: str | None, tags: Collection[str] = ()) -> list[Version]:
        """The versions that match, best first; all of them by name where nothing is asked.

        First those with all words of `q`, then those with words that begin so, then those with any; where there are
        none, those with words spelt nearly so. Only versions with every one of the tags. Any text will do for `q`.
        """
        asked = (q or "")[:MAX_QUERY].strip()
        found = self._ranked(asked) if asked else range(len(self._versions))
        versions = [self._versions[number] for number in found]
        return [version for version in versions if set(tags) <= set(version.function.tags)]

    def _ranked(self, asked: str) -> list[int]:
        words = list(dict.fromkeys(_query_words(asked)))[:MAX_WORDS]
        if not words:
            return []
        exact = [[word] for word in words]
        # Words of one or two letters begin too many others, but the last word may not be finished yet.
        begun = [[w, *(self._beginning_with(w) if len(w) > 2 or w == words[-1] else ())] for w in words]
        found = dict.fromkeys(n for n, v in enumerate(self._versions) if v.function.name.lower() == asked.lower())
        for alternatives, joined in ((exact, " AND "), (begun, " AND "), (begun, " OR ")):
            found |= dict.fromkeys(self._matching(alternatives, joined))
        return list(found or self._matching(map(self._near, words[:_MAX_NEAR]), " OR "))

    def _beginning_with(self, word: str) -> Sequence[str]:
        start = bisect_left(self._words, word)
        end = bisect_left(self._words, word + "\U0010ffff", start)
        return self._words[start : min(end, start + _MAX_BEGINNINGS)]

    def _near(self, word: str) -> Sequence[str]:
        return [word, *suggestions(word, self._words, 3, 0.7)]

    def _matching(self, alternatives: Iterable[Sequence[str]], joined: str) -> list[int]:
        """Row numbers, best first, for one of the alternatives of each word. Words are words: nothing to escape."""
        match = joined.join("(" + " OR ".join(f'"{_spaced(word)}"' for word in words) + ")" for words in alternatives)
        with self._lock:
            return [number for (number,) in self._connection.execute(_SELECT, [match])]


def _columns(function: Function) -> tuple[str, ...]:
    names: list[str] = []
    texts: list[str] = []
    for kind, text in _texts(function.parameters, 0):
        (names if kind == "name" else texts).append(text)
    columns = (function.name, " ".join(function.tags), function.description, " ".join(names), " ".join(texts))
    return tuple(" ".join(_index_words(column[:MAX_TEXT])) for column in columns)


def _texts(schema: Any, depth: int) -> Iterator[tuple[str, str]]:
    """Names of parameters, at any depth, and what is written about them."""
    if depth > _MAX_DEPTH or not isinstance(schema, (dict, list)):
        return
    for key, value in schema.items() if isinstance(schema, dict) else enumerate(schema):
        if key == "properties" and isinstance(value, dict):
            yield from (("name", str(name)) for name in value)
            yield from _texts(list(value.values()), depth + 1)
        elif key in ("description", "title") and isinstance(value, str):
            yield "text", value
        elif key == "enum" and isinstance(value, list):
            yield from (("text", one) for one in value if isinstance(one, str))
        elif key not in _NO_TEXT:
            yield from _texts(value, depth + 1)


def _index_words(text: str) -> list[str]:
    """Words in small letters; of a name like getHTTPBody its parts and the whole."""
    plain = _plain(text)
    spaced = _HUMP.sub(" ", plain)
    words = _WORD.findall(spaced.casefold())
    if spaced == plain:
        return words
    compounds = [part.replace("_", "").casefold() for part in _PART.findall(plain) if _HUMP.search(part)]
    return words + [word for word in compounds if word]


def _query_words(text: str) -> Iterator[str]:
    """As the index has them; of a script without spaces each two signs."""
    for word in _WORD.findall(_HUMP.sub(" ", _plain(text)).casefold()):
        if len(word) > 2 and _UNSPACED.match(word):
            yield from (word[i : i + 2] for i in range(len(word) - 1))
        else:
            yield word


def _plain(text: str) -> str:
    """Without accents, and with one form for each sign."""
    if text.isascii():
        return text
    return unicodedata.normalize("NFKC", _MARKS.sub("", unicodedata.normalize("NFKD", text)))


def _spaced(text: str) -> str:
    return text if text.isascii() else _UNSPACED.sub(r" \1 ", text).strip()
