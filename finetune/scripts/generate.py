"""Make items from the functions' schemas and from phrases: `python -m finetune.scripts.generate`.

The same seed makes the same items. No phrase of the test set is in the training set. One form of asking for each
function and language is in neither, but in a set of its own, `forms`: how a model does with words that it never read.
"""

from __future__ import annotations

import argparse
import json
import random
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

from finetune.scripts.items import Call, Item, Kind, Tool, read_tools, write_items

HERE = Path(__file__).parents[1]
LANGUAGES = ("en", "zh")
# How often each kind is made, of a hundred.
SHARES: Mapping[str, int] = {"call": 58, "calls": 4, "silent": 25, "clarify": 8, "talk": 5}
# How many single calls have their result told, of a hundred; the last question of a talk always has.
TOLD = 30
FIRST_DAY = date(2024, 1, 1)


@dataclass(frozen=True)
class Slot:
    """A value for a parameter: as an argument, and as it is said."""

    value: Any
    words: str


@dataclass(frozen=True)
class Phrases:
    """What people say, by function and language; see data/phrases.json."""

    functions: Mapping[str, Mapping[str, Any]]
    join: Mapping[str, Sequence[str]]
    pools: Mapping[str, Sequence[str]]
    plain: Mapping[str, Sequence[tuple[str, str]]]
    confusable: Mapping[str, Sequence[tuple[str, str]]]

    @classmethod
    def read(cls, path: Path) -> Phrases:
        """Those of a file."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def names(self) -> dict[str, list[str]]:
        """The words that stand for each value of an enum, in all languages."""
        said = [parameter for own in self.functions.values() for parameter in own.get("words", {}).values()]
        found: dict[str, set[str]] = {}
        for values in (each for parameter in said if not isinstance(parameter, str) for each in parameter.values()):
            for value, words in values.items():
                found.setdefault(value, set()).update(words)
        return {value: sorted(words - {value}) for value, words in sorted(found.items())}


class Generator:
    """Makes items, one after the other, the same ones for the same seed."""

    def __init__(self, tools: Mapping[str, Tool], phrases: Phrases, seed: int, *, held_out: bool) -> None:
        self._tools = {name: tool for name, tool in tools.items() if name in phrases.functions}
        self._phrases = phrases
        self._random = random.Random(seed)  # noqa: S311
        self._held_out = held_out

    def forms(self) -> Iterator[Item]:
        """Calls without end, asked for in the forms that are kept for this alone."""
        while True:
            name, lang = self._function(), self._random.choice(LANGUAGES)
            item = self._call(name, lang, self._phrases.functions[name][lang]["ask"][-1:])
            yield replace(item, results=(), said=None)

    def items(self) -> Iterator[Item]:
        """Items without end."""
        makers: Mapping[str, Callable[[str], Item]] = {
            "call": self._single,
            "calls": self._calls,
            "silent": self._silent,
            "clarify": self._clarify,
            "talk": self._talk,
        }
        kinds, weights = list(SHARES), list(SHARES.values())
        while True:
            [kind] = self._random.choices(kinds, weights)
            yield makers[kind](self._random.choice(LANGUAGES))

    def _function(self) -> str:
        return self._random.choice(list(self._tools))

    def _single(self, lang: str) -> Item:
        item = self._call(self._function(), lang)
        return item if self._random.randrange(100) < TOLD else replace(item, results=(), said=None)

    def _call(self, name: str, lang: str, forms: Sequence[str] = ()) -> Item:
        said = self._phrases.functions[name][lang]
        form = self._random.choice(forms or [*said["ask"][:-1], *said.get("ask_all", [])])
        slots = self._slots(name, lang)
        parameters = {p: slot.value for p, slot in slots.items() if "{" + p + "}" in form}
        item = Item(self._filled(form, slots), (Call(name, parameters),), lang=lang)
        result = self._result(name)
        words = {**slots, "result": Slot(result, str(result))}
        answer = self._filled(self._random.choice(said["tell"]), words)
        return replace(item, results=(result,), said=answer)

    def _calls(self, lang: str) -> Item:
        names = self._random.sample(list(self._tools), 2)
        one, other = (self._call(name, lang) for name in names)
        form = self._random.choice(self._phrases.join[lang])
        instruction = form.format(one=one.instruction, other=other.instruction)
        return Item(instruction, one.calls + other.calls, lang=lang)

    def _silent(self, lang: str) -> Item:
        forms = self._phrases.confusable if self._random.random() < 0.7 else self._phrases.plain
        # A phrase that is always the same is for training: a model cannot know what it never read.
        form, answer = self._random.choice([each for each in forms[lang] if "{" in each[0] or not self._held_out])
        slots: dict[str, Slot] = {}
        for name in self._tools:
            slots |= self._slots(name, lang)
        slots |= {pool: Slot(v, v) for pool, values in self._phrases.pools.items() for v in [self._one(values)]}
        return Item(self._filled(form, slots), said=answer, lang=lang)

    def _clarify(self, lang: str) -> Item:
        name = self._function()
        form, question = self._random.choice(self._phrases.functions[name][lang]["lack"])
        slots = self._slots(name, lang)
        return Item(self._filled(form, slots), said=self._filled(question, slots), asks_back=True, lang=lang)

    def _talk(self, lang: str) -> Item:
        """A second question, after one that was answered."""
        first = self._random.choice([self._call(self._function(), lang), self._silent(lang)])
        return replace(self._call(self._function(), lang), history=(first,))

    # -- values

    def _slots(self, name: str, lang: str) -> dict[str, Slot]:
        own = self._phrases.functions[name]
        schema = self._tools[name]["parameters"]["properties"]
        slots: dict[str, Slot] = {}
        for parameter, shape in schema.items():
            slots[parameter] = self._slot(own, parameter, shape, lang)
        for one, other in [own["different"]] if "different" in own else []:
            while slots[other].value == slots[one].value:
                slots[other] = self._slot(own, other, schema[other], lang)
        for one, other in [own["ordered"]] if "ordered" in own else []:
            first, second = sorted([slots[one], slots[other]], key=lambda slot: slot.words)
            slots |= {one: first, other: second}
        if "word" in slots and "letter" in slots and self._random.random() < 0.7:
            letter = self._one(sorted(set(slots["word"].words)))
            slots["letter"] = Slot(letter, letter)
        return slots

    def _slot(self, own: Mapping[str, Any], parameter: str, shape: Mapping[str, Any], lang: str) -> Slot:
        given = own.get("values", {}).get(parameter)
        if isinstance(given, str):
            value = self._one(self._phrases.pools[given])
            return Slot(value, value)
        if "enum" in shape:
            value = self._one(shape["enum"])
            words = own.get("words", {}).get(parameter, {})
            words = own["words"][words] if isinstance(words, str) else words
            return Slot(value, self._one(words.get(lang, {}).get(value, [value])))
        if shape.get("format") == "date":
            day = FIRST_DAY + timedelta(days=self._random.randrange(1400))
            return Slot(day.isoformat(), day.isoformat())
        low, high = given or (1, 999)
        number: float = self._random.randint(low, high)
        if shape.get("type") == "number" and self._random.random() < 0.08:
            number += self._random.randint(1, 9) / 10
        return Slot(number, str(number))

    def _result(self, name: str) -> Any:
        """What the function might have answered: the model is to repeat it, whatever it is."""
        if forms := self._phrases.functions[name].get("results"):
            hour, minute = self._random.randrange(24), self._random.randrange(60)
            return str(self._one(forms)).format(hour=f"{hour:02}", minute=f"{minute:02}")
        whole = int(10 ** self._random.uniform(0, 5))  # as many of two digits as of five
        if self._phrases.functions[name].get("whole"):
            return whole
        fraction = self._random.choice(["", f".{self._random.randint(0, 9)}", f".{self._random.randint(10, 99)}"])
        return json.loads(f"{whole}{fraction}")

    def _one(self, values: Sequence[Any]) -> Any:
        return self._random.choice(values)

    @staticmethod
    def _filled(form: str, slots: Mapping[str, Slot]) -> str:
        names = {name for _, name, _, _ in string.Formatter().parse(form) if name}
        return form.format(**{name: slots[name].words for name in names})


def make_forms(tools: Mapping[str, Tool], phrases: Phrases, *, seed: int, count: int) -> list[Item]:
    """Calls in forms that neither set of `make` has."""
    return list(_distinct(Generator(tools, phrases, seed + 2, held_out=True).forms(), count, set()))


def make(
    tools: Mapping[str, Tool], phrases: Phrases, *, seed: int, train: int, test: int
) -> tuple[list[Item], list[Item]]:
    """Items to train and to test with. No phrase of the second is in the first, where one may come with two results."""
    tested = list(_distinct(Generator(tools, phrases, seed + 1, held_out=True).items(), test, set()))
    kept = {item.instruction for item in tested}
    return list(_distinct(Generator(tools, phrases, seed, held_out=False).items(), train, kept, again=True)), tested


def _distinct(items: Iterator[Item], count: int, taken: set[str], *, again: bool = False) -> Iterator[Item]:
    """So many of them, none with a phrase that is taken or came before; again: but with another result."""
    seen: set[tuple[str, tuple[Any, ...]]] = set()
    for item in islice(items, count * 20):
        mark = (item.instruction, item.results if again else ())
        if item.instruction not in taken and mark not in seen:
            seen.add(mark)
            count -= 1
            yield item
        if count == 0:
            return


def kinds_of(items: Sequence[Item]) -> dict[Kind, int]:
    """How many of each."""
    return {kind: sum(item.kind == kind for item in items) for kind in ("call", "calls", "silent", "clarify")}


def main(argv: Sequence[str] | None = None) -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tools", type=Path, default=HERE / "configs" / "tools.json")
    parser.add_argument("--phrases", type=Path, default=HERE / "data" / "phrases.json")
    parser.add_argument("--out", type=Path, default=HERE / "data", help="folder for train.json and test.json")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--train", type=int, default=6000, help="items to train with")
    parser.add_argument("--test", type=int, default=600, help="items to test with")
    parser.add_argument("--forms", type=int, default=200, help="items in forms that are in neither")
    given = parser.parse_args(argv)
    tools, phrases = read_tools(given.tools), Phrases.read(given.phrases)
    train, test = make(tools, phrases, seed=given.seed, train=given.train, test=given.test)
    forms = make_forms(tools, phrases, seed=given.seed, count=given.forms)
    given.out.mkdir(parents=True, exist_ok=True)
    for name, items in {"train": train, "test": test, "forms": forms}.items():
        write_items(given.out / f"{name}.json", items)
        print(f"{given.out / name}.json: {len(items)} items, {kinds_of(items)}")


if __name__ == "__main__":
    main()
