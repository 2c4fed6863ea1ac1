from datetime import date


def days_between(start: date, end: date) -> int:
    """Count the days from one date to another.

    Args:
        start: The first day, as YYYY-MM-DD.
        end: The last day, as YYYY-MM-DD.
    """
    return (end - start).days
