"""Serve a model's folder to OpenAI's clients: `python -m finetune.scripts.serve FOLDER [--port 8100]`.

The server is an existing one: vLLM where it is installed and there is a GPU, else `transformers serve`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

# How vLLM finds calls in what a family of models says.
PARSERS = {"qwen": "hermes", "mistral": "mistral", "chatglm": "pythonic", "glm": "glm45"}


def command(folder: Path, port: int, *, gpu: bool, family: str) -> list[str]:
    """The server's command line."""
    if gpu and find_spec("vllm") is not None:
        parser = next((name for start, name in PARSERS.items() if family.startswith(start)), "hermes")
        tools = ["--enable-auto-tool-choice", "--tool-call-parser", parser]
        return [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--host",
                "127.0.0.1", "--port", str(port), *tools]  # fmt: skip
    program = Path(sys.executable).with_name("transformers")
    return [str(program), "serve", str(folder), "--host", "127.0.0.1", "--port", str(port)]


def main(argv: Sequence[str] | None = None) -> None:
    """Become the server."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=8100)
    given = parser.parse_args(argv)
    folder = given.folder.resolve()
    if not (folder / "config.json").exists():
        sys.exit(f"{folder} has no config.json: give the folder of a whole model, for LoRA its `merged`.")
    import torch
    from transformers import AutoConfig

    family = AutoConfig.from_pretrained(folder).model_type
    argv = command(folder, given.port, gpu=torch.cuda.is_available(), family=family)
    print(f"{folder.name} as {folder} at http://127.0.0.1:{given.port}/v1; for the service:")
    print(f"  OPENAI_BASE_URL=http://127.0.0.1:{given.port}/v1 OPENAI_API_KEY=none AIGBB_MODEL={folder}", flush=True)
    os.execv(argv[0], argv)  # noqa: S606


if __name__ == "__main__":
    main()
