"""A model that knows `functions`, and no tools: `mode` says so, and everything else is as it always is.

Needs a running service that has a model. From the checkout: .venv/bin/python examples/legacy.py
"""

from server.client import Aigbb

SOURCE = '''
def example_rate(currency: str) -> float:
    """Say what a euro costs.

    Args:
        currency: Three letters, such as USD.
    """
    return {"USD": 1.25, "GBP": 0.8}[currency]
'''
# Such a model is given a description that says what comes back as well.
DESCRIPTION = {
    "description": "What a euro costs in another currency.",
    "parameters": {"type": "object", "properties": {"currency": {"type": "string"}}, "required": ["currency"]},
    "responses": {"type": "number"},
}

with Aigbb() as aigbb:
    aigbb.register(SOURCE, effects="read", tags=["example-rates"], description=DESCRIPTION)
    print("offered:", aigbb.tools("legacy-functions", tags=["example-rates"]))

    # To the model go `functions`, and its `function_call` comes back. What you get has tool calls, in every mode.
    done = aigbb.chat("How many dollars are 8 euros?", tags=["example-rates"], mode="legacy")
    for message in done.messages:
        print(f"{message['role']}: {message.get('tool_calls') or message['content']}")

    aigbb.delete("example_rate")
