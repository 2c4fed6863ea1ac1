ACCOUNTS: dict[str, int] = {}


def balance(account: str) -> int:
    """Cents on an account."""
    return ACCOUNTS.get(account, 0)
