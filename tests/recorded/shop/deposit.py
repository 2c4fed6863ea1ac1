from typing import Annotated

from aigbb_functions.balance import ACCOUNTS
from pydantic import Field


def deposit(account: str, cents: Annotated[int, Field(gt=0)]) -> int:
    """Add to an account; a new one begins with nothing.

    Returns: what is on it then, in cents.
    """
    ACCOUNTS[account] = ACCOUNTS.get(account, 0) + cents
    return ACCOUNTS[account]
