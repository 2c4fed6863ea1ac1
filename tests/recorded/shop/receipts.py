from typing import TypedDict


class Receipt(TypedDict):
    """A payment."""

    number: int
    account: str
    cents: int


PAID: list[Receipt] = []


def receipts(account: str) -> list[Receipt]:
    """What an account has paid."""
    return [receipt for receipt in PAID if receipt["account"] == account]
