from typing import TypedDict


class Goods(TypedDict):
    """What is on the shelf of one kind, and the price of one in cents."""

    count: int
    price: int


SHELF: dict[str, Goods] = {}


def stock() -> dict[str, Goods]:
    """All that is on the shelf."""
    return SHELF
