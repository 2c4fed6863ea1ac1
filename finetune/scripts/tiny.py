"""A tiny base model for machines without weights: `python -m finetune.scripts.tiny --out FOLDER`.

A Qwen2 of a few million parameters with random weights, and a small tokenizer of its own, made of a training set. What
it learns is a handful of functions and their phrases; it is no language model. It reads the names of its tools, not
their schemas, and no instructions: its chat template leaves them out, so that a question is a few dozen tokens.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM, set_seed

from finetune.scripts.generate import Phrases
from finetune.scripts.items import Item, Tool, read_items, read_tools
from finetune.scripts.prompt_utils import Prompts

HERE = Path(__file__).parents[1]
END, START, PAD = "<|im_end|>", "<|im_start|>", "<|endoftext|>"
# The words between which Qwen's models put calls and results; `transformers serve` and vLLM read them.
MARKS = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]
# What stands around every message and every argument: one token each.
FRAMES = ["user\n", "assistant\n", '\n{"name": "', '", "arguments": {"', '": "', '": ', '", "', ', "', '"}}\n', "}}\n"]
# Numbers are copied, not worked with: each up to 999 is one token, longer ones are read from the left in threes.
NUMBERS = [
    *map(str, range(1000)),
    *(f"0{n}" for n in range(10)),
    *(f"-{month:02}-{day:02}" for month in range(1, 13) for day in range(1, 32)),
    *map(str, range(2020, 2031)),
]
# What of them begins as one kind of word.
KINDS = (r"\d+", r"-\d\d-\d\d")
TEMPLATE = """\
{%- for message in messages %}
{%- if message.role == 'tool' %}
{%- if loop.first or loop.previtem.role != 'tool' %}{{ '<|im_start|>user\n' }}{%- endif %}
{{- '<tool_response>\n' + message.content + '\n</tool_response>' }}
{%- if loop.last or loop.nextitem.role != 'tool' %}{{ '<|im_end|>\n' }}{%- endif %}
{%- elif message.role == 'assistant' and message.tool_calls %}
{{- '<|im_start|>assistant\n' + (message.content or '') }}
{%- for call in message.tool_calls %}
{{- '<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' }}
{{- call.function.arguments if call.function.arguments is string else call.function.arguments | tojson }}
{{- '}\n</tool_call>' + ('' if loop.last else '\n') }}
{%- endfor %}{{ '<|im_end|>\n' }}
{%- elif message.role in ('user', 'assistant') %}
{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{%- endif %}
{#- tools: it knows them by heart #}
"""


def make_tokenizer(
    texts: Iterator[str],
    names: Mapping[str, Sequence[str]],
    called: Sequence[str],
    vocabulary: int = 1500,
) -> PreTrainedTokenizerFast:
    """A byte-level BPE with a token for each of NUMBERS and FRAMES, of `names`: values, and the words for them, and of
    `called`: functions and parameters.
    """
    tokenizer = Tokenizer(models.BPE())
    # A space is never part of a word: the same word is the same tokens wherever it stands.
    words = pre_tokenizers.Split(Regex(r"\d| |[^\w\s]|[^\W\d]+"), "isolated")
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=PAD)
    named = [word for value, words in names.items() for word in (value, *words)]
    made.add_tokens([*MARKS, *FRAMES, *NUMBERS, *named, *called])
    made.chat_template = TEMPLATE
    made.model_max_length = 1024
    return made


def make_model(
    tokenizer: PreTrainedTokenizerFast,
    names: Mapping[str, Sequence[str]],
    *,
    width: int,
    layers: int,
    seed: int,
    spread: float = 0.05,
) -> Qwen2ForCausalLM:
    """Random weights, the same ones for the same seed, that begin in an order which makes copying easy to learn."""
    set_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width * 3,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 64,
        max_position_embeddings=1024,
        initializer_range=spread,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen2ForCausalLM(config)
    begin_by_copying(model)
    begin_alike(model, tokenizer, names, spread)
    model.generation_config.update(
        max_new_tokens=160, do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return model


@torch.no_grad()  # type: ignore[untyped-decorator]
def begin_by_copying(model: Qwen2ForCausalLM) -> None:
    """Have each head pass on what it looks at: value and output projections begin as each other's transpose.

    Arguments are words of the question. Where to look is learnt in a few hundred steps; to pass it on took thousands.
    """
    for layer in model.model.layers:
        turned, _ = torch.linalg.qr(torch.randn_like(layer.self_attn.v_proj.weight))
        layer.self_attn.v_proj.weight.copy_(turned)
        layer.self_attn.o_proj.weight.copy_(turned.T / 2)


@torch.no_grad()  # type: ignore[untyped-decorator]
def begin_alike(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, names: Mapping[str, Sequence[str]], spread: float
) -> None:
    """Have numbers begin as one kind of word, days as another, and a value as the words for it.

    Each by itself is read a few times only.
    """
    embeddings = model.get_input_embeddings().weight
    words = [tokenizer.decode([n]).strip() for n in range(len(tokenizer))]
    kinds = [[n for n, word in enumerate(words) if re.fullmatch(kind, word)] for kind in KINDS]
    named = [tokenizer.convert_tokens_to_ids([value, *said]) for value, said in names.items()]
    for alike in (*kinds, *named):
        embeddings[alike] += spread * torch.randn(embeddings.shape[1])


def called_of(tools: Mapping[str, Tool]) -> list[str]:
    """Names of functions and parameters that are no words of a language."""
    names = {part for name, tool in tools.items() for part in (name, *tool["parameters"]["properties"])}
    return sorted(name for name in names if "_" in name)


def texts_of(items: Sequence[Item]) -> Iterator[str]:
    """What the tokenizer is made of: what is said and called."""
    for item in items:
        yield item.instruction
        yield from (json.dumps({"name": c.name, "arguments": c.parameters}, ensure_ascii=False) for c in item.calls)
        if item.said:
            yield item.said


def main(argv: Sequence[str] | None = None) -> None:
    """Write the folder of a model."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tools", type=Path, default=HERE / "configs" / "tools.json")
    parser.add_argument("--train_file", type=Path, default=HERE / "data" / "train.json")
    parser.add_argument("--phrases", type=Path, default=HERE / "data" / "phrases.json")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args(argv)
    tools = read_tools(given.tools)
    items = read_items(given.train_file, tools)
    names = Phrases.read(given.phrases).names()
    tokenizer = make_tokenizer(texts_of(items), names, called_of(tools))
    model = make_model(tokenizer, names, width=given.width, layers=given.layers, seed=given.seed)
    model.save_pretrained(given.out)
    tokenizer.save_pretrained(given.out)
    length = len(tokenizer(Prompts.of(tokenizer, tools).prompt(items[0].before()))["input_ids"])
    print(f"{given.out}: {model.num_parameters() / 1e6:.1f} million parameters, {len(tokenizer)} tokens,")
    print(f"a question is about {length} tokens.")


if __name__ == "__main__":
    main()
