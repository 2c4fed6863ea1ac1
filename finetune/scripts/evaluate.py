"""How well a model calls functions: `python -m finetune.scripts.evaluate --model FOLDER [--against BASE]`.

Arguments are compared by value, with their types: 3 and 3.0 are the same number where the schema says number, and "3"
is neither. Nothing is run: only what the model says is looked at, of a result that it is given too.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from finetune.scripts.answers import Answer, read
from finetune.scripts.items import BadData, Call, Item, Message, Tool, content_of, read_items, read_tools
from finetune.scripts.train_sft import Refused, load

HERE = Path(__file__).parents[1]
MAX_TOKENS = 160


@dataclass(frozen=True)
class Judged:
    """One answer held against what was expected. after: what was said of the results, where the item has some."""

    item: Item
    answer: Answer
    after: Answer | None = None

    @property
    def name(self) -> bool:
        """The right functions, in the right order."""
        return [call.name for call in self.answer.calls] == [call.name for call in self.item.calls]

    @property
    def exact(self) -> bool:
        """And the right arguments."""
        return self.name and all(
            same(one.parameters, other.parameters)
            for one, other in zip(self.answer.calls, self.item.calls, strict=True)
        )

    @property
    def right(self) -> bool:
        """Exact where something is to be called, silent where not."""
        return self.exact if self.item.calls else self.silent

    @property
    def silent(self) -> bool:
        """No call, and words instead."""
        return _is_words(self.answer)

    @property
    def told(self) -> bool:
        """Words that have each result in them, as it was."""
        if self.after is None:
            return False
        return _is_words(self.after) and all(content_of(result) in self.after.words for result in self.item.results)


def _is_words(answer: Answer) -> bool:
    return not answer.calls and answer.valid and bool(answer.words)


@dataclass(frozen=True)
class Score:
    """Shares between 0 and 1, None where there is nothing to judge. items: how many were judged."""

    items: int
    name: float | None
    exact: float | None
    valid: float | None
    silence: float | None
    told: float | None

    @classmethod
    def of(cls, judged: Sequence[Judged]) -> Score:
        """Of some answers. silence counts those that expect no call; a question back counts as one.

        told counts those with results, which are given to the model whatever it called.
        """
        calls = [each for each in judged if each.item.calls]
        quiet = [each for each in judged if not each.item.calls]
        return cls(
            len(judged),
            _share(each.name for each in calls),
            _share(each.exact for each in calls),
            _share(each.answer.valid for each in judged),
            _share(each.silent for each in quiet),
            _share(each.told for each in judged if each.after),
        )


def _share(found: Iterable[bool]) -> float | None:
    values = list(found)
    return round(sum(values) / len(values), 4) if values else None


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal, with their types. An integer is a number."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        return one == other
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and bool(one == other)


def typed(call: Call, tools: Mapping[str, Tool]) -> Call:
    """A call whose numbers are of the kind that the schema says: 3.0 for an integer stays as wrong as it is."""
    shapes = tools.get(call.name, {}).get("parameters", {}).get("properties", {})
    wrong = [
        name
        for name, value in call.parameters.items()
        if shapes.get(name, {}).get("type") == "integer" and isinstance(value, float)
    ]
    return Call(call.name, {name: str(v) if name in wrong else v for name, v in call.parameters.items()})


# -- asking a model


class Respondent:
    """A model that is asked, greedily. Raises Refused where there is none of that name."""

    def __init__(self, name: str, tools: Mapping[str, Tool]) -> None:
        model, self._prompts = load(name, tools)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = model.to(self._device).eval()
        self._prompts.tokenizer.padding_side = "left"
        self._tools = tools

    def judged(self, items: Sequence[Item]) -> list[Judged]:
        """Its answer to each item, and to the results of those that have some."""
        first = self.answers([item.before() for item in items])
        told = [n for n, item in enumerate(items) if item.results and item.said is not None]
        after = dict(zip(told, self.answers([list(items[n].steps())[-1][0] for n in told]), strict=True))
        return [Judged(item, answer, after.get(n)) for n, (item, answer) in enumerate(zip(items, first, strict=True))]

    def answers(self, asked: Sequence[Sequence[Message]], batch: int = 64) -> list[Answer]:
        """What it says next in each conversation. Those of like length are asked together."""
        texts = [self._prompts.prompt(messages) for messages in asked]
        order = sorted(range(len(texts)), key=lambda n: len(texts[n]))
        found: dict[int, Answer] = {}
        for start in range(0, len(order), batch):
            some = order[start : start + batch]
            found |= zip(some, map(self._read, self._said([texts[n] for n in some])), strict=True)
        return [found[n] for n in range(len(texts))]

    def _said(self, texts: Sequence[str]) -> list[str]:
        tokenizer = self._prompts.tokenizer
        inputs = tokenizer(list(texts), return_tensors="pt", padding=True, add_special_tokens=False)
        inputs.pop("token_type_ids", None)
        with torch.inference_mode():
            made = self._model.generate(
                **inputs.to(self._device),
                max_new_tokens=MAX_TOKENS,
                do_sample=False,
                pad_token_id=tokenizer.pad_token_id,
            )
        said: list[str] = tokenizer.batch_decode(made[:, inputs["input_ids"].shape[1] :])
        return said

    def _read(self, text: str) -> Answer:
        answer = read(text.partition(self._prompts.tokenizer.eos_token)[0])
        return Answer(tuple(typed(call, self._tools) for call in answer.calls), answer.words, answer.valid)


# -- tables


def report(judged: Sequence[Judged]) -> dict[str, Score]:
    """Scores of all, and by what was expected, by function and by language."""
    groups: dict[str, list[Judged]] = {}
    for each in judged:
        for name in _groups(each.item):
            groups.setdefault(name, []).append(each)
    order = ("all", "kind", "talk", "function", "language")
    return {name: Score.of(groups[name]) for name in sorted(groups, key=lambda n: (order.index(n.split(":")[0]), n))}


def _groups(item: Item) -> Iterator[str]:
    yield "all"
    yield f"kind: {item.kind}"
    yield f"language: {item.lang}"
    if item.history:
        yield "talk: a later question"
    if item.kind == "call":
        yield f"function: {item.calls[0].name}"


def table(scores: Mapping[str, Mapping[str, Score]]) -> str:
    """Markdown: a line a group, the models side by side."""
    columns = ("name", "exact", "valid", "silence", "told")
    lines = [f"| | items | {' | '.join(f'{c} {m}' for m in scores for c in columns)} |"]
    lines.append("|" + " --- |" * (2 + len(columns) * len(scores)))
    for group, first in next(iter(scores.values())).items():
        cells = [_cell(getattr(rows[group], column)) for rows in scores.values() for column in columns]
        lines.append(f"| {group} | {first.items} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def main(argv: Sequence[str] | None = None) -> int:
    """Ask, judge, print a table and write the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", required=True, help="folder or name")
    parser.add_argument("--against", help="another model, the base for example")
    parser.add_argument("--tools", type=Path, default=HERE / "configs" / "tools.json")
    parser.add_argument("--test_file", type=Path, default=HERE / "data" / "test.json")
    parser.add_argument("--forms_file", type=Path, help="items in forms that no training item has")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("--wrong", type=int, default=0, help="show so many answers that were wrong")
    given = parser.parse_args(argv)
    try:
        tools = read_tools(given.tools)
        items = read_items(given.test_file, tools)
        forms = read_items(given.forms_file, tools) if given.forms_file else []
        models = {"": given.model, **({"(base)": given.against} if given.against else {})}
        judged = {label: Respondent(name, tools).judged([*items, *forms]) for label, name in models.items()}
    except (BadData, Refused) as error:
        print(error, file=sys.stderr)
        return 1
    scores = {label: report(each[: len(items)]) for label, each in judged.items()}
    if forms:
        for label, found in judged.items():
            scores[label]["forms that were never read"] = Score.of(found[len(items) :])
    print(table(scores))
    for one in [one for one in judged[""] if not one.right][: given.wrong]:
        print(f"wrong: {one.item.instruction!r} -> {one.answer}")
    for one in [one for one in judged[""] if one.after and not one.told][: given.wrong]:
        print(f"untold: {one.item.results} -> {one.after}")
    if given.out:
        figures = {label or "model": {g: asdict(s) for g, s in rows.items()} for label, rows in scores.items()}
        given.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
