"""Teach a chat model to call functions: `python -m finetune.scripts.train_sft --base_model ... --train_file ...`.

Transformers, TRL and PEFT do the work. The loss counts answers only. Any causal language model by name or folder;
bf16, fp16 or the CPU as the machine allows. A run that was cut off goes on where its last checkpoint is.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback, set_seed
from transformers.utils.logging import disable_progress_bar
from trl import SFTConfig, SFTTrainer

from finetune.scripts.items import BadData, Item, Tool, read_items, read_tools
from finetune.scripts.prompt_utils import Prompts

HERE = Path(__file__).parents[1]


class Refused(Exception):
    """Why there is nothing to train, a sentence."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = made.add_argument
    add("--base_model", required=True, help="name or folder of a causal chat model")
    add("--tools", type=Path, default=HERE / "configs" / "tools.json")
    add("--train_file", type=Path, default=HERE / "data" / "train.json")
    add("--eval_file", type=Path, help="items that the loss is looked at with, during training")
    add("--output_dir", type=Path, required=True)
    add("--use_lora", type=_flag, default=True, help="true: an adapter; false: all weights")
    add("--lora_r", type=int, default=16)
    add("--num_train_epochs", type=float, default=3.0)
    add("--learning_rate", type=float, help="default 2e-4 with LoRA, 2e-5 without")
    add("--adam_beta2", type=float, default=0.999)
    add("--per_device_train_batch_size", type=int, default=4)
    add("--gradient_accumulation_steps", type=int, default=4)
    add("--gradient_checkpointing", type=_flag, default=False)
    add("--max_length", type=int, default=2048, help="tokens; longer items are refused")
    add("--save_steps", type=int, default=200)
    add("--logging_steps", type=int, default=10)
    add("--max_steps", type=int, default=-1)
    add("--dtype", choices=["auto", "bf16", "fp16", "fp32"], default="auto")
    add("--seed", type=int, default=7)
    return made


def _flag(text: str) -> bool:
    if text.lower() not in {"true", "false"}:
        raise argparse.ArgumentTypeError("true or false")
    return text.lower() == "true"


# -- data


def examples(prompts: Prompts, items: Sequence[Item], longest: int) -> list[dict[str, Any]]:
    """Each item as tokens, with labels for its answers alone. Raises BadData.

    A later answer goes on behind an earlier one, unless the chat template shows that in another way by then.
    """
    found: list[dict[str, Any]] = []
    for n, item in enumerate(items):
        text = ""
        for before, answer in item.steps():
            asked, said = prompts.taught(before, answer)
            if not (text and asked.startswith(text)):
                text = ""
                found.append({"input_ids": [], "labels": []})
            _go_on(found[-1], prompts.tokenizer, asked.removeprefix(text), said)
            text = asked + said
            if len(found[-1]["labels"]) > longest:
                raise BadData(f"item {n}: {len(found[-1]['labels'])} tokens are more than {longest}.")
    return found


def _go_on(example: dict[str, Any], tokenizer: Any, asked: str, said: str) -> None:
    first, second = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (asked, said))
    example["input_ids"] += first + second
    example["labels"] += [-100] * len(first) + second


# -- model


def load(name: str, tools: Mapping[str, Tool]) -> tuple[Any, Prompts]:
    """The model, and how it reads. Raises Refused."""
    if not sys.stderr.isatty():
        disable_progress_bar()
    try:
        prompts = Prompts.of(AutoTokenizer.from_pretrained(name), tools)
        return AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32), prompts
    except (OSError, ValueError) as error:
        raise Refused(
            f"The model {name!r} could not be loaded: {str(error).splitlines()[0]} "
            "Give a folder with weights, or a name that can be fetched from here."
        ) from error


def precision(wanted: str) -> dict[str, bool]:
    """What the trainer calculates in, as its own flags: what this machine allows. Weights are always fp32."""
    if wanted == "auto":
        cuda = torch.cuda.is_available()
        wanted = "fp32" if not cuda else "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    if wanted == "fp16" and not torch.cuda.is_available():
        raise Refused("fp16 needs a GPU, and there is none: leave --dtype out, or say bf16 or fp32.")
    return {"bf16": wanted == "bf16", "fp16": wanted == "fp16"}


def trainer_of(given: argparse.Namespace, model: Any, tokenizer: Any, data: Mapping[str, Any]) -> SFTTrainer:
    """TRL's trainer, set up as was asked."""
    rate = given.learning_rate or (2e-4 if given.use_lora else 2e-5)
    config = SFTConfig(
        output_dir=str(given.output_dir),
        num_train_epochs=given.num_train_epochs,
        max_steps=given.max_steps,
        learning_rate=rate,
        adam_beta2=given.adam_beta2,
        per_device_train_batch_size=given.per_device_train_batch_size,
        per_device_eval_batch_size=given.per_device_train_batch_size,
        gradient_accumulation_steps=given.gradient_accumulation_steps,
        gradient_checkpointing=given.gradient_checkpointing,
        train_sampling_strategy="group_by_length",
        lr_scheduler_type="cosine",
        warmup_steps=0.05,
        logging_steps=given.logging_steps,
        save_steps=given.save_steps,
        save_total_limit=2,
        eval_strategy="steps" if "eval" in data else "no",
        eval_steps=given.save_steps,
        seed=given.seed,
        data_seed=given.seed,
        report_to=[],
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        max_length=given.max_length,
        dataset_kwargs={"skip_prepare_dataset": True},
        disable_tqdm=not sys.stderr.isatty(),
        **precision(given.dtype),
    )
    lora = LoraConfig(r=given.lora_r, lora_alpha=2 * given.lora_r, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = SFTTrainer(
        model,
        args=config,
        train_dataset=data["train"],
        eval_dataset=data.get("eval"),
        processing_class=tokenizer,
        peft_config=lora if given.use_lora else None,
        callbacks=[Told()],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


class Told(TrainerCallback):  # type: ignore[misc]
    """Says how far it is, where there is no terminal to draw a bar on."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """A line of what the trainer measured."""
        loss = (logs or {}).get("loss", (logs or {}).get("eval_loss"))
        if loss is not None and args.disable_tqdm:
            kind = "loss" if "loss" in (logs or {}) else "eval loss"
            print(f"step {state.global_step}/{state.max_steps}  {kind} {float(loss):.4f}", flush=True)


# -- a run


def train(given: argparse.Namespace) -> dict[str, Any]:
    """Train, save, and write curve and card. Returns the card. Raises BadData, Refused, OSError."""
    tools = read_tools(given.tools)
    files = {"train": given.train_file, **({"eval": given.eval_file} if given.eval_file else {})}
    items = {name: read_items(path, tools) for name, path in files.items()}
    set_seed(given.seed)
    model, prompts = load(given.base_model, tools)
    made = {name: examples(prompts, each, given.max_length) for name, each in items.items()}
    given.output_dir.mkdir(parents=True, exist_ok=True)
    trainer = trainer_of(given, model, prompts.tokenizer, {n: Dataset.from_list(each) for n, each in made.items()})
    checkpoint = last_checkpoint(given.output_dir)
    if checkpoint:
        print(f"Going on from {checkpoint.name}.")
    start = time.monotonic()
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    seconds = time.monotonic() - start
    trainer.save_model(str(given.output_dir))
    prompts.tokenizer.save_pretrained(given.output_dir)
    history = trainer.state.log_history
    draw(history, given.output_dir / "loss.svg")
    card = _card(given, files, made, trainer, seconds)
    (given.output_dir / "run.json").write_text(json.dumps(card, indent=1, default=str) + "\n", encoding="utf-8")
    return card


def last_checkpoint(folder: Path) -> Path | None:
    """The newest that was written to its end: the trainer's state comes last."""
    whole = [path for path in folder.glob("checkpoint-*") if (path / "trainer_state.json").exists()]
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _card(
    given: argparse.Namespace, files: Mapping[str, Path], made: Mapping[str, Any], trainer: Any, seconds: float
) -> dict[str, Any]:
    """What was done with what, so that it can be done again."""
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return {
        "settings": {name: str(value) if isinstance(value, Path) else value for name, value in vars(given).items()},
        "data": {
            name: {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "sequences": len(made[name])}
            for name, path in files.items()
        },
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "transformers", "trl", "peft")},
        },
        "device": device,
        "parameters": trainer.model.num_parameters(),
        "trained": trainer.model.num_parameters(only_trainable=True),
        "steps": trainer.state.global_step,
        "seconds": round(seconds, 1),
        "loss": {"first": losses[0], "last": losses[-1]} if losses else {},
        "history": [line for line in trainer.state.log_history if "loss" in line or "eval_loss" in line],
    }


def draw(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """The loss over the steps, as a picture."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.5), layout="constrained")
    for name, label in (("loss", "training"), ("eval_loss", "held out")):
        points = [(line["step"], line[name]) for line in history if name in line]
        if points:
            axes.plot(*zip(*points, strict=True), label=label)
    axes.set(xlabel="step", ylabel="loss of the answers", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path)
    pyplot.close(figure)


def merge(folder: Path, out: Path) -> None:
    """An adapter and its base as one model that any server takes."""
    from peft import AutoPeftModelForCausalLM

    merged = AutoPeftModelForCausalLM.from_pretrained(folder).merge_and_unload()
    merged.save_pretrained(out)
    AutoTokenizer.from_pretrained(folder).save_pretrained(out)


def is_full(folder: Path, error: Exception) -> bool:
    """Whether the disk is why something could not be written. Torch does not say so."""
    if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
        return True
    return "file write failed" in str(error) and shutil.disk_usage(folder).free < 2**20


def main(argv: Sequence[str] | None = None) -> int:
    """Train; a sentence for what is wrong. Exit codes: 0, 1 for bad data, a missing model or a full disk."""
    given = parser().parse_args(argv)
    try:
        card = train(given)
        if given.use_lora:
            merge(given.output_dir, given.output_dir / "merged")
    except (BadData, Refused) as error:
        print(error, file=sys.stderr)
        return 1
    except Exception as error:  # each library has its own for a full disk
        if not is_full(given.output_dir, error):
            raise
        print(f"The disk is full: free space under {given.output_dir}, then run the same again.", file=sys.stderr)
        return 1
    print(
        f"{card['trained']:,} of {card['parameters']:,} parameters trained on {card['device']}: {card['steps']} steps"
    )
    print(f"in {card['seconds']} s, loss {card['loss']}. See {given.output_dir / 'run.json'} and loss.svg.")
    return 0


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    sys.exit(main())
