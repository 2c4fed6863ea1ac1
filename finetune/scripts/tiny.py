"""A tiny base model for machines without weights: `python -m finetune.scripts.tiny --out FOLDER`.

A Qwen2 of a few million parameters with random weights, and a small tokenizer of its own, made of a training set. What
it learns is a handful of functions and their phrases; it is no language model. It reads the names of its tools, not
their schemas, and no instructions: its chat template leaves them out, so that a question is a few dozen tokens.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM, set_seed

from finetune.scripts.items import Item, read_items, read_tools
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
    *(f"-{n:02}" for n in range(1, 32)),
    *map(str, range(2020, 2031)),
]
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


def make_tokenizer(texts: Iterator[str], vocabulary: int = 1500) -> PreTrainedTokenizerFast:
    """A byte-level BPE whose tokens are also those of NUMBERS and FRAMES."""
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
    made.add_tokens([*MARKS, *FRAMES, *NUMBERS])
    made.chat_template = TEMPLATE
    made.model_max_length = 1024
    return made


def make_model(
    tokenizer: PreTrainedTokenizerFast,
    *,
    width: int,
    layers: int,
    seed: int,
    spread: float = 0.02,
) -> Qwen2ForCausalLM:
    """Random weights, the same ones for the same seed."""
    set_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width * 3,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 32,
        max_position_embeddings=1024,
        initializer_range=spread,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen2ForCausalLM(config)
    model.generation_config.update(
        max_new_tokens=160, do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return model


def teach_copying(model: Qwen2ForCausalLM, steps: int, seed: int) -> float:
    """Before it reads a phrase: to repeat what it was given, any tokens in any order. Returns the last loss.

    Arguments are words of the question. A model learns to copy late when it only ever sees them beside so much else.
    """
    chance = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01)
    loss = torch.tensor(0.0)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, (step + 1) / 50)
        tokens = torch.randint(3, model.config.vocab_size, (64, 12), generator=chance)
        both = torch.cat([tokens, tokens], dim=1)
        labels = both.clone()
        labels[:, :12] = -100
        loss = model(input_ids=both, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return float(loss.detach())


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
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--copy_steps", type=int, default=400)
    parser.add_argument("--spread", type=float, default=0.02)
    given = parser.parse_args(argv)
    tools = read_tools(given.tools)
    items = read_items(given.train_file, tools)
    tokenizer = make_tokenizer(texts_of(items))
    model = make_model(tokenizer, width=given.width, layers=given.layers, seed=given.seed, spread=given.spread)
    print(f"copying: loss {teach_copying(model, given.copy_steps, given.seed):.3f} after {given.copy_steps} steps")
    model.save_pretrained(given.out)
    tokenizer.save_pretrained(given.out)
    length = len(tokenizer(Prompts.of(tokenizer).prompt(items[0].before(), tools))["input_ids"])
    print(f"{given.out}: {model.num_parameters() / 1e6:.1f} million parameters, {len(tokenizer)} tokens,")
    print(f"a question is about {length} tokens.")


if __name__ == "__main__":
    main()
