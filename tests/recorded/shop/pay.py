from aigbb_functions.balance import ACCOUNTS
from aigbb_functions.cart import ITEMS
from aigbb_functions.receipts import PAID, Receipt

from aigbb_functions import cart


class NotEnough(Exception):
    """The account does not have it."""


def pay(account: str) -> Receipt:
    """Pay what is in the cart, which is empty then."""
    total = cart()["total"]
    if ACCOUNTS.get(account, 0) < total:
        raise NotEnough(f"{total} to pay, {ACCOUNTS.get(account, 0)} on {account}")
    ACCOUNTS[account] -= total
    ITEMS.clear()
    PAID.append({"number": len(PAID) + 1, "account": account, "cents": total})
    return PAID[-1]
