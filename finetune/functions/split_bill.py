def split_bill(total: float, people: int, tip_percent: int = 0) -> float:
    """Split a bill evenly, and say what each person pays.

    Args:
        total: The amount of the bill.
        people: How many people share it.
        tip_percent: A tip to add before, in percent.
    """
    return round(total * (1 + tip_percent / 100) / people, 2)
