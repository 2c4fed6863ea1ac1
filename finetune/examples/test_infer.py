"""Talk to a model in the terminal; the service runs what it calls: `python finetune/examples/test_infer.py`.

Needs a running service that has a model (docs/finetune.md). The history goes along; an empty line is the end.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from server.client import Client
from server.settings import Settings


def happened(messages: list[Mapping[str, Any]]) -> Iterator[str]:
    """What a turn added, a line each."""
    for message in messages:
        for call in message.get("tool_calls") or ():
            yield f"  calls {call['function']['name']}({call['function']['arguments']})"
        if message["role"] == "tool":
            yield f"  the kernel answers {message['content']}"


def main() -> None:
    """Question after question."""
    service, messages = Client.find(Settings(), None), list[Mapping[str, Any]]()
    asking = "What would you like to know? "
    while question := _line(asking):
        sent = [*messages, {"role": "user", "content": question}]
        done = service.request("POST", "/chat", {"messages": sent})
        for line in happened(done["messages"][len(sent) :]):
            print(line)
        messages = done["messages"]
        print(f"{done['content'] or done['status']}")
        asking = "Anything else? "


def _line(asking: str) -> str:
    try:
        return input(asking).strip()
    except EOFError:
        return ""


if __name__ == "__main__":
    main()
