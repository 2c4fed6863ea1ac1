from typing import Annotated

from aigbb_functions.cart import ITEMS
from aigbb_functions.stock import SHELF
from pydantic import Field


class OutOfStock(Exception):
    """There are not so many."""


def put(item: str, count: Annotated[int, Field(gt=0)] = 1) -> dict[str, int]:
    """Take goods from the shelf into the cart."""
    left = SHELF[item]["count"] if item in SHELF else 0
    if left < count:
        raise OutOfStock(f"{left} of {item} left, {count} wanted")
    SHELF[item]["count"] -= count
    ITEMS[item] = ITEMS.get(item, 0) + count
    return {"in_cart": ITEMS[item], "left": SHELF[item]["count"]}
