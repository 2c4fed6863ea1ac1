"""`make finetune-demo`: from functions to a small model that calls them, and a talk in which they are really run.

A service with the functions of finetune/functions is started, its tools are exported, items are made from them, a tiny
model is made and trained, held against its untrained self, served, and asked two questions through the service.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

ROOT = Path(__file__).parents[1]
HERE = Path(__file__).parent
QUESTIONS = ("What is 508 plus 696?", "Convert 250 euros to yen.")
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
def running(argv: Sequence[str], log: Path, url: str, more: Mapping[str, str]) -> Iterator[None]:
    """A server, once it answers. Raises SystemExit with its log where it does not."""
    with log.open("wb") as said:
        process = subprocess.Popen(argv, cwd=ROOT, env={**os.environ, **more}, stdout=said, stderr=said)
    try:
        deadline = time.monotonic() + 180
        while not _answers(url):
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"{argv[0]} did not start:\n{log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.2)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def _answers(url: str) -> bool:
    try:
        return httpx2.get(url, timeout=5).status_code < 400
    except httpx2.HTTPError:
        return False


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def service(folder: Path, port: int, model: str, base_url: str) -> Iterator[httpx2.Client]:
    """A service of the demo's own, with the functions and the model; a client of it."""
    functions = folder / "aigbb_functions"
    shutil.copytree(HERE / "functions", functions, dirs_exist_ok=True)
    home = folder / "home"
    settings = {
        "AIGBB_HOME": str(home),
        "AIGBB_FUNCTIONS_DIR": str(functions),
        "AIGBB_KERNELSPECS_DIR": str(folder / "kernelspecs"),
        "AIGBB_CACHE": os.environ.get("AIGBB_CACHE", str(ROOT / ".aigbb" / "cache")),
        "AIGBB_PORT": str(port),
        "AIGBB_MODEL": model,
        "OPENAI_BASE_URL": base_url,
        "OPENAI_API_KEY": "none",
    }
    url = f"http://127.0.0.1:{port}"
    program = str(Path(sys.executable).with_name("aigbb"))
    with running([program, "serve"], folder / "service.log", f"{url}/healthz", settings):
        token = (home / "token").read_text().strip()
        with httpx2.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=120) as client:
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
        for message in body["messages"][len(messages) + 1 :]:
            for call in message.get("tool_calls") or ():
                print(f"  calls {call['function']['name']}({call['function']['arguments']})")
            if message["role"] == "tool":
                print(f"  the kernel answers {message['content']}")
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
    parser.add_argument("--items", type=int, default=28_000)
    given = parser.parse_args(argv)
    folder: Path = given.folder.absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    ports, start = (free_port(), free_port()), time.monotonic()
    base, model, tools = folder / "base", folder / "model", folder / "tools.json"
    base_url = f"http://127.0.0.1:{ports[1]}/v1"
    step("A service with the functions")
    with service(folder, ports[0], str(model), base_url) as client:
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
        figures = folder / "figures.json"
        run("evaluate", "--model", str(model), "--against", str(base), *asked, "--out", str(figures))
        step("A talk through the service")
        serving = [sys.executable, "-m", "finetune.scripts.serve", str(model), "--port", str(ports[1])]
        with running(serving, folder / "model.log", f"http://127.0.0.1:{ports[1]}/health", {"HF_HUB_OFFLINE": "1"}):
            talk(client)
    print(f"\n{time.monotonic() - start:.0f} s in all; everything is in {folder}.")
    for line in (lines := missed(json.loads(figures.read_text(encoding="utf-8")))):
        print(f"MISSED {line}")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
