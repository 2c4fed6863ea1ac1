"""Talk to a model in the terminal; its calls are run by the service: `python finetune/examples/test_infer.py`.

The service is the one that runs on this machine (`make serve`), with its model set; see docs/finetune.md.
"""

from __future__ import annotations

import argparse
from typing import Any

from server.client import Aigbb


def talk(model: str | None) -> None:
    """Question after question, until there is none. The history goes along."""
    messages: list[Any] = []
    more = {"model": model} if model else {}
    with Aigbb() as aigbb:
        while question := input("You: " if not messages else "Anything else? ").strip():
            messages.append({"role": "user", "content": question})
            turn = aigbb.chat(messages, **more)
            for message in turn.messages[len(messages) :]:
                for call in message.get("tool_calls") or ():
                    print(f"  calls {call['function']['name']}({call['function']['arguments']})")
                if message["role"] == "tool":
                    print(f"  result {message['content']}")
            messages = list(turn.messages)
            print(f"Model: {turn.text}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--model", help="another than AIGBB_MODEL")
    talk(parser.parse_args().model)
