"""Get data out of a text: a model has to call a function, and its arguments are the data, checked against its types.

Needs a running service that has a model. From the checkout: .venv/bin/python examples/extract.py
"""

import json

from server.client import Aigbb

SOURCE = '''
from typing import Annotated, Literal, TypedDict

from pydantic import Field

class Item(TypedDict):
    name: str
    quantity: Annotated[int, Field(ge=1)]
    size: Literal["small", "medium", "large"] | None

def extract_data(customer: str, items: list[Item]) -> dict[str, str | list[Item]]:
    """Write down an order.

    Args:
        customer: Who orders.
        items: What is ordered; size is null where the text does not say it.
    """
    return {"customer": customer, "items": items}
'''
TEXT = "Hi, it's Ada. Could you put two large pizzas aside for me? And a lemonade, thanks!"

with Aigbb() as aigbb:
    aigbb.register(SOURCE, effects="read")
    done = aigbb.chat(
        TEXT,
        tools=["extract_data"],
        # The model must call it,
        tool_choice={"type": "function", "function": {"name": "extract_data"}},
        # is held to the schema while it writes, where its service can do that,
        strict=True,
        # and what the function returns is the answer: nothing is put into words.
        final=False,
    )
    order = json.loads(done.text)
    print(json.dumps(order, indent=2))
    print("to make:", sum(item["quantity"] for item in order["items"]))
    aigbb.delete("extract_data")
