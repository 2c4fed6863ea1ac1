"""What a function returned, as JSON and as the text that a model sees. Never raises but for KeyboardInterrupt."""

import base64
import dataclasses
import enum
import json
import math
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, MappingView, Sequence, Set
from operator import attrgetter
from typing import Any, NamedTuple

from pydantic_core import PydanticSerializationError, to_jsonable_python

MAX_DEPTH = 100
MAX_NODES = 1_000_000
MAX_REPR = 2_000
MAX_BITS = 14_000  # about what Python writes in decimal
MARKER = 120  # of the budget of a text, for the line that whoever shows it puts where something is left out

NOTHING = "The function returned nothing."
TOO_DEEP = f"(nested deeper than {MAX_DEPTH} levels)"
RECURSIVE = "(a value that holds itself)"

PICTURES = ("_repr_png_", "_repr_jpeg_", "_repr_svg_")


def to_json(value: Any) -> Any:
    """The JSON form of any value: strict JSON, so NaN is null. What has none becomes its repr.

    Models, dataclasses and mappings are objects with text as keys; tuples, sets, deques and arrays are lists; bytes
    are base64; a DataFrame is {"columns", "index", "data"}, a Series {"name", "index", "data"}. Iterators are left
    unread. What holds over a million values is only named.
    """
    try:
        return _Former().form(value)
    except _TooMuch:
        return f"<{kind_of(value)} with more than {MAX_NODES:,} values>"  # its repr might have no end either


class Content(NamedTuple):
    """What a model should see of a result: if it is not the whole, head and tail, and the characters between.

    Nothing is between where the head itself says what is missing.
    """

    head: str
    tail: str = ""
    left_out: int = 0
    whole: bool = True


def to_content(value: Any, budget: int) -> Content:
    """What a model should see of a result, in at most `budget` characters, less MARKER if it is not the whole."""
    try:
        return _content(value, budget)
    except KeyboardInterrupt:
        raise
    except BaseException:
        return shortened(f"The function returned an object of type {kind_of(value)}.", budget)


def shortened(text: str, budget: int) -> Content:
    """A text, or its head and tail."""
    if len(text) <= budget:
        return Content(text)
    room = max(0, budget - MARKER, budget // 2)
    tail = room // 3
    head = room - tail
    return Content(text[:head], text[len(text) - tail :], len(text) - room, whole=False)


def ordered(values: Iterable[Any]) -> list[Any]:
    """A set's values in an order that is the same in each process."""
    listed = list(values)
    try:
        return sorted(listed)
    except Exception:
        return sorted(listed, key=lambda value: json.dumps(to_json(value)))


def shown(value: Any) -> str:
    """repr(value), whatever its __repr__ does."""
    try:
        return clean(repr(value)[:MAX_REPR])
    except KeyboardInterrupt:
        raise
    except BaseException:
        return f"<{kind_of(value)}>"


def kind_of(value: Any) -> str:
    """The name of a value's class, with its module where that says more."""
    try:
        cls = type(value)
        module, name = type.__getattribute__(cls, "__module__"), type.__getattribute__(cls, "__qualname__")
        return clean(name if module in ("builtins", "__main__") else f"{module}.{name}")[:200]
    except KeyboardInterrupt:
        raise
    except BaseException:
        return "unknown"


def clean(text: str) -> str:
    """Exactly a str, with U+FFFD for lone surrogates."""
    plain = str.__str__(text)
    return plain if plain.isascii() else plain.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


# -- content


def _content(value: Any, budget: int) -> Content:
    if _rule(type(value)) in (_Former.frame, _Former.series):
        return _table(value, budget)
    return shortened(_text(value), budget)


def _text(value: Any) -> str:
    if value is None:
        return NOTHING
    if issubclass(type(value), str):
        return clean(value)
    rule = _rule(type(value))
    if rule is None or (rule is _Former.plain and not _is_plain(value)):
        return _words(value)
    form = to_json(value)
    return form if isinstance(form, str) else json.dumps(form, ensure_ascii=False, separators=(",", ":"))


def _table(frame: Any, budget: int) -> Content:
    """The first rows that fit, and the shape if there are more."""
    total = len(frame)
    shape = " x ".join(f"{n:,}" for n in frame.shape)
    rows = min(total, max(1, budget // 4))
    while True:
        text, room = clean(frame.head(rows).to_string()), budget
        if rows < total:
            text, room = f"{text}\n(the first {rows:,} of {total:,} rows; shape {shape})", budget - MARKER
        if len(text) <= room:
            return Content(text, whole=rows == total)
        if rows <= 1:
            return shortened(text, room)._replace(whole=False)
        rows = max(1, min(rows - 1, rows * room // len(text)))


def _words(value: Any) -> str:
    kind, own = kind_of(value), shown(value)
    if kind.startswith("matplotlib.") or any(hasattr(type(value), name) for name in PICTURES):
        return f"The function returned a picture ({kind}), which text cannot show."
    told = "." if " at 0x" in own else f": {own}"
    return f"The function returned an object of type {kind}, which has no JSON form{told}"


def _is_plain(value: Any) -> bool:
    try:
        to_jsonable_python(value)
    except PydanticSerializationError:
        return False
    return True


# -- JSON


class _TooMuch(BaseException):
    """There are more values than MAX_NODES."""


class _Former:
    """One walk through a value."""

    def __init__(self) -> None:
        self.open: set[int] = set()
        self.nodes = 0
        self.rules: dict[type, Rule | None] = {}

    def form(self, value: Any) -> Any:
        """The JSON form of one value, of which those that are open hold it."""
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise _TooMuch
        if id(value) in self.open:
            return RECURSIVE
        if len(self.open) > MAX_DEPTH:
            return TOO_DEEP
        try:
            return self.inside(value)
        except (KeyboardInterrupt, _TooMuch):
            raise
        except BaseException:
            return shown(value)

    def inside(self, value: Any) -> Any:
        """The same, by the rule for its class: an object cannot hide that. Raises what the object's own code raises."""
        cls = type(value)
        if cls not in self.rules:
            self.rules[cls] = _rule(cls)
        rule = self.rules[cls]
        if rule is None:
            return shown(value)
        if rule in _SCALAR:
            return rule(self, value)
        self.open.add(id(value))
        try:
            return rule(self, value)
        finally:
            self.open.discard(id(value))

    def nothing(self, _: Any) -> None:
        """None, and pandas' names for it."""

    def truth(self, value: bool) -> bool:
        """True or False."""
        return value

    def text(self, value: str) -> str:
        """A str, or what is one underneath."""
        return clean(value)

    def integer(self, value: int) -> int | str:
        """An int; as hexadecimal text where Python would not write it in decimal."""
        plain = int.__int__(value)
        return plain if plain.bit_length() <= MAX_BITS else hex(plain)

    def number(self, value: float) -> float | None:
        """A float, or None for NaN and infinities."""
        plain = float.__float__(value)
        return plain if math.isfinite(plain) else None

    def binary(self, value: bytes) -> str:
        """Base64 of bytes."""
        return base64.b64encode(bytes(value)).decode("ascii")

    def member(self, value: enum.Enum) -> Any:
        """An enum's member by its value."""
        return self.form(value.value)

    def items(self, values: Iterable[Any]) -> list[Any]:
        """A list of forms."""
        return [self.form(value) for value in values]

    def group(self, values: Iterable[Any]) -> list[Any]:
        """A set as a list, in the same order each time."""
        return self.items(ordered(values))

    def mapping(self, value: Mapping[Any, Any]) -> dict[str, Any]:
        """An object. A key that is no text becomes its form's JSON; where two are the same text, the last wins."""
        return {self.key(key): self.form(inner) for key, inner in value.items()}

    def key(self, key: Any) -> str:
        """The text of a key."""
        form = self.form(key)
        return form if isinstance(form, str) else json.dumps(form, ensure_ascii=False)

    def model(self, value: Any) -> Any:
        """A pydantic model or dataclass by its own serializers; its fields as they are, should those fail."""
        try:
            return self.form(to_jsonable_python(value, bytes_mode="base64", fallback=self.form))
        except Exception:
            return self.fields(value) if dataclasses.is_dataclass(value) else self.mapping(dict(value))

    def fields(self, value: Any) -> Any:
        """A dataclass."""
        names = [field.name for field in dataclasses.fields(value)]
        return self.mapping({name: getattr(value, name) for name in names if hasattr(value, name)})

    def plain(self, value: Any) -> Any:
        """What pydantic knows a JSON form of: dates, UUID, Decimal, Path, addresses and more. Raises for all else."""
        return self.form(to_jsonable_python(value, inf_nan_mode="null"))

    def frame(self, value: Any) -> Any:
        """A DataFrame."""
        split = value.to_dict("split")
        return self.mapping({part: split[part] for part in ("columns", "index", "data")})

    def series(self, value: Any) -> Any:
        """A Series."""
        return self.mapping({"name": value.name, "index": value.index, "data": value.tolist()})

    def column(self, value: Any) -> Any:
        """An Index, or a column's own array."""
        return self.items(value.tolist())

    def moment(self, value: Any) -> str:
        """pandas' own kind of a date or a duration, in ISO 8601."""
        return clean(value.isoformat())

    def written(self, value: Any) -> str:
        """What says all in its text, such as a Period."""
        return clean(str(value))

    def array(self, value: Any) -> Any:
        """A numpy array or scalar; dates and durations in ISO 8601."""
        if value.dtype.kind == "M":
            return self.form(_without_nat(value.astype(str).tolist()))
        if value.dtype.kind == "m":
            return self.form(value.astype("timedelta64[us]").tolist())
        plain = value.tolist()
        return self.number(float(plain)) if type(plain) is type(value) else self.form(plain)


Rule = Callable[[_Former, Any], Any]

# The first that fits counts. Classes of modules that are not loaded can have no instance.
_FOREIGN: tuple[tuple[str, str, Rule], ...] = (
    ("pandas", "DataFrame", _Former.frame),
    ("pandas", "Series", _Former.series),
    ("pandas", "Index", _Former.column),
    ("pandas", "api.extensions.ExtensionArray", _Former.column),
    ("pandas", "NaT.__class__", _Former.nothing),
    ("pandas", "NA.__class__", _Former.nothing),
    ("pandas", "Timestamp", _Former.moment),
    ("pandas", "Timedelta", _Former.moment),
    ("pandas", "Period", _Former.written),
    ("pandas", "Interval", _Former.written),
    ("numpy", "ndarray", _Former.array),
    ("numpy", "generic", _Former.array),
)
_OWN: tuple[tuple[Any, Rule | None], ...] = (
    (type(None), _Former.nothing),
    (bool, _Former.truth),
    (enum.Enum, _Former.member),
    (str, _Former.text),
    (int, _Former.integer),
    (float, _Former.number),
    ((bytes, bytearray, memoryview), _Former.binary),
    (Iterator, None),
    (Mapping, _Former.mapping),
    (MappingView, _Former.items),
    (Set, _Former.group),
    ((Sequence, deque), _Former.items),
)
_SCALAR = (_Former.nothing, _Former.truth, _Former.text, _Former.integer, _Former.number)


def _rule(cls: type) -> Rule | None:
    """How values of a class get their JSON form; None if they have none."""
    for module, name, rule in _FOREIGN:
        if module in sys.modules and issubclass(cls, attrgetter(name)(sys.modules[module])):
            return rule
    if hasattr(cls, "__pydantic_serializer__"):
        return _Former.model
    for base, own in _OWN:
        if issubclass(cls, base):
            return own
    return _Former.fields if dataclasses.is_dataclass(cls) else _Former.plain


def _without_nat(texts: Any) -> Any:
    if isinstance(texts, list):
        return [_without_nat(text) for text in texts]
    return None if texts == "NaT" else texts
