"""A tiny model is trained with an adapter, merged and judged; what is cut off goes on; what is wrong is a sentence."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune.scripts import evaluate, tiny, train_sft
from finetune.scripts.answers import Answer, read
from finetune.scripts.generate import HERE, Phrases, make
from finetune.scripts.items import Call, Item, read_tools, write_items
from finetune.scripts.prompt_utils import Prompts

TOOLS = read_tools(HERE / "configs" / "tools.json")
PHRASES = Phrases.read(HERE / "data" / "phrases.json")
QUICK = ["--per_device_train_batch_size", "8", "--gradient_accumulation_steps", "2", "--logging_steps", "1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Items, and a model of random weights."""
    place = tmp_path_factory.mktemp("tiny")
    train, test = make(TOOLS, PHRASES, seed=3, train=400, test=24)
    write_items(place / "train.json", train)
    write_items(place / "test.json", test)
    tiny.main(f"--train_file {place}/train.json --out {place}/base --width 64 --layers 2".split())
    return place


def arguments(folder: Path, out: str, *more: str) -> list[str]:
    """A training of a few seconds."""
    given = f"--base_model {folder}/base --train_file {folder}/train.json --output_dir {folder}/{out}".split()
    return [*given, *QUICK, *more]


def losses(folder: Path, out: str, name: str = "loss") -> dict[int, float]:
    """The curve, by step."""
    card = json.loads((folder / out / "run.json").read_text())
    return {line["step"]: line[name] for line in card["history"] if name in line}


def test_an_adapter_is_trained_saved_merged_and_judged(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--max_steps", "4", "--save_steps", "2", "--eval_file", str(folder / "test.json")]
    assert train_sft.main(arguments(folder, "lora", "--gradient_checkpointing", "true", *more)) == 0
    out = folder / "lora"
    assert (out / "adapter_model.safetensors").exists() and not (out / "model.safetensors").exists()
    card = json.loads((out / "run.json").read_text())
    assert 0 < card["trained"] < card["parameters"] / 2
    assert card["data"]["train"]["sequences"] == 400 and len(card["data"]["eval"]["sha256"]) == 64
    assert list(losses(folder, "lora", "eval_loss")) == [2, 4]
    assert "<svg" in (out / "loss.svg").read_text()
    capsys.readouterr()
    judged = f"--model {out}/merged --against {folder}/base --test_file {folder}/test.json --out {out}/figures.json"
    assert evaluate.main(judged.split()) == 0
    figures = json.loads((out / "figures.json").read_text())
    assert figures["model"]["all"]["items"] == 24
    assert (figures["(base)"]["all"]["name"], figures["(base)"]["all"]["told"]) == (0.0, 0.0)
    assert {"language: en", "language: zh", "kind: silent", "function: add"} <= figures["model"].keys()
    assert capsys.readouterr().out.startswith("| | items | name  |")


def test_words_for_one_value_begin_alike(folder: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(folder / "base")
    weights = AutoModelForCausalLM.from_pretrained(folder / "base").get_input_embeddings().weight.detach()
    names = PHRASES.names()
    tokens = {
        word: tokenizer.convert_tokens_to_ids(word) for value in ("EUR", "Paris") for word in (value, *names[value])
    }
    assert {"EUR", "euros", "欧元", "Paris", "巴黎"} <= tokens.keys()
    assert all(tokenizer.decode([token]) == word for word, token in tokens.items())

    def likeness(one: str, other: str) -> float:
        return float(torch.cosine_similarity(weights[tokens[one]], weights[tokens[other]], dim=0))

    assert likeness("Paris", "巴黎") > 0.25 > likeness("Paris", "欧元")
    assert likeness("EUR", "欧元") > 0.25 > likeness("EUR", "巴黎")


@pytest.mark.parametrize(
    ("after", "told"),
    [
        (Answer((), "That makes 12.5 for 3."), True),
        (Answer((), "That makes 12."), False),
        (Answer((Call("add", {}),), "12.5 and 3"), False),
        (None, False),
    ],
)
def test_a_result_is_told_as_it_was(after: Answer | None, told: bool) -> None:
    item = Item("x", (Call("add", {}), Call("add", {})), "y", results=(12.5, 3))
    assert evaluate.Judged(item, Answer((), "?"), after).told is told


def test_all_weights_learn_where_there_is_no_adapter(folder: Path) -> None:
    more = ["--use_lora", "false", "--max_steps", "12", "--learning_rate", "3e-3"]
    assert train_sft.main(arguments(folder, "full", *more)) == 0
    curve = losses(folder, "full")
    assert curve[12] < curve[1] - 1
    assert (folder / "full" / "model.safetensors").exists()


def test_a_killed_run_goes_on_with_the_same_curve(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--max_steps", "20", "--save_steps", "3"]
    assert train_sft.main(arguments(folder, "whole", *more)) == 0
    argv = [sys.executable, "-m", "finetune.scripts.train_sft", *arguments(folder, "cut", *more)]
    with subprocess.Popen(argv, cwd=HERE.parent, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("step 7/"):
                process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    (folder / "cut" / "checkpoint-18").mkdir()  # as when it was killed while it saved
    (folder / "cut" / "checkpoint-18" / "adapter_model.safetensors").write_bytes(b"half")
    capsys.readouterr()
    assert train_sft.main(arguments(folder, "cut", *more)) == 0
    assert "Going on from checkpoint-6." in capsys.readouterr().out
    whole, cut = losses(folder, "whole"), losses(folder, "cut")
    assert list(cut) == list(whole) == list(range(1, 21))
    assert cut == pytest.approx(whole, rel=1e-3)


# -- a sentence each


def refused(capsys: pytest.CaptureFixture[str], argv: list[str]) -> str:
    """What is said where nothing is trained."""
    capsys.readouterr()
    assert train_sft.main(argv) == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


def test_bad_data_says_which_item(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps([{"instruction": "x", "function_call": {"name": "ad", "parameters": {}}}]))
    assert "item 0: unknown function 'ad'" in refused(capsys, arguments(folder, "bad", "--train_file", str(bad)))
    assert "tokens are more than 4." in refused(capsys, arguments(folder, "bad", "--max_length", "4"))
    assert not (folder / "bad").exists()


def test_a_missing_model_and_a_missing_gpu_are_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, arguments(folder, "bad", "--base_model", str(folder / "none")))
    assert "could not be loaded" in said and "Give a folder with weights" in said
    if not torch.cuda.is_available():
        assert "fp16 needs a GPU" in refused(capsys, arguments(folder, "bad", "--dtype", "fp16"))


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of 300 kB."""
    place = tmp_path / "small"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", place], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"NOT TESTED: training on a full disk. That takes a small tmpfs, which needs root: {done.stderr}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.parametrize("more", [(), ("--use_lora", "false")], ids=["adapter", "all weights"])
def test_a_full_disk_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str], small: Path, more: tuple[str, ...]
) -> None:
    argv = arguments(folder, "bad", "--output_dir", str(small / "out"), "--max_steps", "1", *more)
    said = refused(capsys, argv)
    assert "The disk is full" in said and str(small) in said


# -- how families of models are asked: their tokenizers' forms, with the tiny one's tokens


QWEN = tiny.TEMPLATE
MISTRAL = """\
{{- bos_token }}
{%- set ns = namespace(last=0) %}
{%- for m in messages %}{%- if m.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}
{%- for m in messages %}
{%- if m.role == 'user' %}
{%- if loop.index0 == ns.last and tools %}
{{- '[AVAILABLE_TOOLS] ' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}
{%- endif %}
{{- '[INST] ' + m.content + '[/INST]' }}
{%- elif m.tool_calls %}
{{- '[TOOL_CALLS] [' }}
{%- for call in m.tool_calls %}
{%- if call.id | length != 9 %}{{ raise_exception('an id has nine letters and digits') }}{%- endif %}
{{- '{"name": "' + call.function.name + '", "arguments": ' + (call.function.arguments | tojson) + ', "id": "' }}
{{- call.id + '"}' + (']' if loop.last else ', ') }}
{%- endfor %}{{- eos_token }}
{%- elif m.role == 'tool' %}
{{- '[TOOL_RESULTS] {"content": ' + m.content | string + ', "call_id": "' + m.tool_call_id + '"}[/TOOL_RESULTS]' }}
{%- else %}{{- ' ' + m.content + eos_token }}{%- endif %}
{%- endfor %}"""
CHATGLM = """\
{{- '[gMASK]<sop>' }}
{%- if tools %}{{- '<|system|>\\n' }}{%- for tool in tools %}{{- tool.function | tojson }}{%- endfor %}{%- endif %}
{%- for m in messages %}
{%- if m.role == 'observation' %}{{- '<|observation|>\\n' + m.content }}
{%- elif m.role in ('system', 'user', 'assistant') %}{{- '<|' + m.role + '|>\\n' + m.content }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>\\n' }}{%- endif %}"""


@pytest.mark.parametrize(
    ("template", "native"),
    [(QWEN, True), (MISTRAL, True), (CHATGLM, False), (None, False)],
    ids=["Qwen", "Mistral", "ChatGLM", "none"],
)
def test_each_family_is_asked_and_read_in_its_own_form(folder: Path, template: str | None, native: bool) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(folder / "base")
    tokenizer.chat_template, tokenizer.bos_token = template, "<|im_start|>"
    prompts = Prompts.of(tokenizer, TOOLS)
    assert prompts.native is native
    train, _ = make(TOOLS, PHRASES, seed=5, train=200, test=1)
    for item in train:
        for before, answer in item.steps():
            asked, said = prompts.taught(before, answer)
            assert before[-1]["content"] in asked
            assert any(token in said for token in tokenizer.all_special_tokens)
            understood = read(said.partition(tokenizer.eos_token)[0])
            wanted = [call["function"] for call in answer.get("tool_calls", ())]
            assert [(c.name, dict(c.parameters)) for c in understood.calls] == [
                (each["name"], json.loads(each["arguments"])) for each in wanted
            ]
            assert understood.words == answer["content"]
            assert native or "### Tool: add" in asked
