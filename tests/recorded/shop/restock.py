from typing import Annotated

from aigbb_functions.stock import SHELF, Goods
from pydantic import Field


def restock(item: str, count: Annotated[int, Field(gt=0)], price: Annotated[int, Field(gt=0)]) -> Goods:
    """Put goods on the shelf, at this price in cents."""
    before = SHELF.get(item, {"count": 0, "price": price})
    SHELF[item] = {"count": before["count"] + count, "price": price}
    return SHELF[item]
