"""Give a model the functions as tools, run what it asks for, and send it the answers, mistakes included.

Needs a running service, but no model: its side of the conversation is written out here.
From the checkout: .venv/bin/python examples/tools.py
"""

import json

from server.client import Client
from server.settings import Settings

SOURCE = '''
from typing import Literal

def example_note(text: str, user_id: str, urgency: Literal["low", "high"] = "low") -> str:
    """Keep a note for the user.

    Args:
        text: What to remember.
        urgency: How urgent it is.
    """
    return f"noted for {user_id} ({urgency}): {text}"
'''

service = Client.find(Settings(), None)

# `user_id` is bound: the caller of the model fills it in, and the model never sees it.
service.request("POST", "/register", {"source": SOURCE, "bound": ["user_id"], "tags": ["example-notes"]})
tools = service.request("GET", "/tools", format="openai", tags="example-notes")
print("tools:", json.dumps(tools))

# What a model may answer: two calls at once. The second has an urgency that does not exist.
tool_calls = [
    {
        "id": "call_1",
        "type": "function",
        "function": {"name": "example_note", "arguments": '{"text": "Buy milk"}'},
    },
    {
        "id": "call_2",
        "type": "function",
        "function": {"name": "example_note", "arguments": '{"text": "Call Ada", "urgency": "urgent"}'},
    },
]

# Every call gets its message, in the same order. What went wrong is content, for the model to try again.
done = service.request("POST", "/tools/run", {"tool_calls": tool_calls, "bound": {"user_id": "u-17"}})
messages = [{"role": "assistant", "content": None, "tool_calls": tool_calls}, *done["messages"]]
for message in messages[1:]:
    print(message["role"], message["tool_call_id"], message["content"])
print("statuses:", [run["status"] for run in done["runs"]])

service.request("DELETE", "/functions/example_note")
