"""`make finetune-demo`: from functions to a small model that calls them, and a talk in which they are really run.

A service with the functions of finetune/functions is started, its tools are exported, items are made from them, a tiny
model is made and trained, held against its untrained self, served, and asked two questions through the service.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.servers import Server, serving
from finetune.examples.test_infer import happened

ROOT = Path(__file__).parents[1]
HERE = Path(__file__).parent
QUESTIONS = ("What is 508 plus 696?", "What time is it in Tokyo?")
# What fits the tiny model: each item once, in small steps at a high rate.
TRAINING = {
    "use_lora": "false",
    "num_train_epochs": "1",
    "learning_rate": "2e-3",
    "adam_beta2": "0.98",
    "per_device_train_batch_size": "16",
    "gradient_accumulation_steps": "1",
    "save_steps": "500",
}
GOALS: Mapping[str, Mapping[str, float]] = {
    "kind: call": {"name": 0.95, "exact": 0.85},
    "kind: silent": {"silence": 0.9},
}


def step(text: str) -> None:
    """Say what comes now."""
    print(f"\n== {text}", flush=True)


def run(module: str, *arguments: str) -> None:
    """A script of ours, to its end; the demo ends where it fails."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    subprocess.run(
        [sys.executable, "-m", f"finetune.scripts.{module}", *arguments], cwd=ROOT, env=environment, check=True
    )


@contextmanager
def service(folder: Path, more: Mapping[str, str]) -> Iterator[httpx2.Client]:
    """A service of the demo's own, with the functions and these variables; a client of it."""
    functions, home = folder / "aigbb_functions", folder / "home"
    shutil.copytree(HERE / "functions", functions, dirs_exist_ok=True)
    settings = {
        "AIGBB_HOME": str(home),
        "AIGBB_FUNCTIONS_DIR": str(functions),
        "AIGBB_KERNELSPECS_DIR": str(folder / "kernelspecs"),
        "AIGBB_CACHE": os.environ.get("AIGBB_CACHE", str(ROOT / ".aigbb" / "cache")),
        **more,
    }
    argv = [sys.executable, "-m", "server", "serve", "--port"]
    with serving(
        folder / "service.log", Server("/healthz", lambda port: [*argv, str(port)], settings, folder=ROOT)
    ) as started:
        headers = {"Authorization": f"Bearer {(home / 'token').read_text().strip()}"}
        with httpx2.Client(base_url=started.url, headers=headers, timeout=120) as client:
            yield client


@contextmanager
def modelled(folder: Path, model: Path) -> Iterator[httpx2.Client]:
    """The same service with the model, which is served beside it."""
    argv = [sys.executable, "-m", "finetune.scripts.serve", str(model), "--port"]
    server = Server("/health", lambda port: [*argv, str(port)], {"HF_HUB_OFFLINE": "1"}, folder=ROOT)
    with serving(folder / "model.log", server) as started:
        place = {"AIGBB_MODEL": str(model), "OPENAI_BASE_URL": f"{started.url}/v1", "OPENAI_API_KEY": "none"}
        with service(folder, place) as client:
            yield client


def talk(client: httpx2.Client) -> list[dict[str, Any]]:
    """Two questions of one conversation. Raises SystemExit where a call did not run."""
    messages: list[dict[str, Any]] = []
    for question in QUESTIONS:
        print(f"You: {question}")
        answer = client.post("/chat", json={"messages": [*messages, {"role": "user", "content": question}]})
        if answer.status_code != 200:
            sys.exit(f"/chat answered {answer.status_code}: {answer.text[:1000]}")
        body = answer.json()
        print(*happened(body["messages"][len(messages) + 1 :]), sep="\n")
        messages = body["messages"]
        print(f"Model: {messages[-1]['content']}", flush=True)
    if sum(message["role"] == "tool" for message in messages) != len(QUESTIONS):
        sys.exit("A question came to no call.")
    return messages


def missed(figures: Mapping[str, Any]) -> list[str]:
    """The goals that were not reached, a line each."""
    return [
        f"{group}: {name} is {figures['model'][group][name]}, the goal is {goal}"
        for group, goals in GOALS.items()
        for name, goal in goals.items()
        if figures["model"][group][name] < goal
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """All of it. Exit code 1 where a goal is not reached."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=ROOT / ".finetune")
    parser.add_argument("--items", type=int, default=38_000)
    given = parser.parse_args(argv)
    folder: Path = given.folder.absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    start, figures = time.monotonic(), folder / "figures.json"
    base, model, tools = folder / "base", folder / "model", folder / "tools.json"
    step("A service with the functions")
    with service(folder, {}) as client:
        tools.write_text(client.get("/tools", params={"format": "openai"}).text, encoding="utf-8")
    step("Data from its tools")
    run("generate", "--tools", str(tools), "--out", str(folder), "--train", str(given.items), "--test", "500")
    train, test = str(folder / "train.json"), str(folder / "test.json")
    step("A tiny model that knows nothing")
    run("tiny", "--tools", str(tools), "--train_file", train, "--out", str(base))
    step("Training")
    options = [part for name, value in TRAINING.items() for part in (f"--{name}", value)]
    common = ["--tools", str(tools), "--train_file", train, "--base_model", str(base), "--output_dir", str(model)]
    run("train_sft", *common, *options)
    step("Evaluation, beside the untrained model")
    asked = ["--tools", str(tools), "--test_file", test, "--forms_file", str(folder / "forms.json")]
    run("evaluate", "--model", str(model), "--against", str(base), *asked, "--out", str(figures))
    step("A talk through the service")
    with modelled(folder, model) as client:
        talk(client)
    print(f"\n{time.monotonic() - start:.0f} s in all; everything is in {folder}.")
    for line in (lines := missed(json.loads(figures.read_text(encoding="utf-8")))):
        print(f"MISSED {line}")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
