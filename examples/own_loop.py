"""A loop of your own: you talk to the model, and the service gives you the tools and runs the calls.

Needs a running service, and a model for this script: OPENAI_API_KEY or OPENAI_BASE_URL, and AIGBB_MODEL for its name.
From the checkout: .venv/bin/python examples/own_loop.py
"""

import os
from typing import Any

from openai import OpenAI

from server.client import Aigbb

SOURCE = '''
def example_orders(customer_id: str, open_only: bool = False) -> dict[str, str]:
    """List the customer's orders.

    Args:
        open_only: Only those that were not delivered yet.
    """
    orders = {"c-17": {"lamp": "delivered", "chair": "open"}}.get(customer_id, {})
    return {article: state for article, state in orders.items() if state == "open" or not open_only}
'''
MAX_ROUNDS = 5

model = OpenAI()
name = os.environ.get("AIGBB_MODEL", "gpt-4o-mini")
messages: list[Any] = [{"role": "user", "content": "What of my orders has not arrived?"}]

with Aigbb() as aigbb:
    # Whose orders is not for the model to say: it is bound, and its value comes with the run.
    aigbb.register(SOURCE, effects="read", bound=["customer_id"], tags=["example-orders"])
    tools = aigbb.tools(tags=["example-orders"])
    for _ in range(MAX_ROUNDS):
        completion = model.chat.completions.create(model=name, messages=messages, tools=tools)
        message = completion.choices[0].message
        messages.append(message)
        if not message.tool_calls:
            print("answers: ", message.content)
            break
        # One message for each call, in order, whatever went wrong in it.
        ran = aigbb.run(message, bound={"customer_id": "c-17"})
        messages += ran.messages
        for run, told in zip(ran.runs, ran.messages, strict=True):
            print(f"{run.name}: {run.status}, {told['content']}")
    aigbb.delete("example_orders")
