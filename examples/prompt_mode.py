"""A model that knows text, and nothing else: the tools are described in words, and calls are found in its answers.

Needs a running service that has a model. From the checkout: .venv/bin/python examples/prompt_mode.py
"""

from server.client import Aigbb

SOURCE = '''
def example_stock(article: str) -> int:
    """Say how many pieces of an article there are.

    Args:
        article: Its name, in the singular.
    """
    return {"lamp": 12, "chair": 0}.get(article, -1)
'''

with Aigbb() as aigbb:
    aigbb.register(SOURCE, effects="read", tags=["example-stock"])
    # This is what such a model reads about the functions.
    print(aigbb.tools("prompt", tags=["example-stock"]))

    done = aigbb.chat("Are there any lamps left?", tags=["example-stock"], mode="prompt")
    for run in done.runs:
        print(f"called: {run.name} {run.arguments} -> {run.content}")
    print(f"{done.status}: {done.text}")

    # The conversation has tool calls all the same: another model can go on with it, in another mode.
    print("roles:", [message["role"] for message in done.messages])
    aigbb.delete("example_stock")
