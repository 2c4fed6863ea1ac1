from aigbb_functions.stock import SHELF

ITEMS: dict[str, int] = {}


def cart() -> dict[str, int | dict[str, int]]:
    """What is in the cart, and what it costs in cents."""
    return {"items": ITEMS, "total": sum(SHELF[item]["price"] * count for item, count in ITEMS.items())}
