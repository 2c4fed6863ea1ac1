from typing import Literal

Currency = Literal["USD", "EUR", "CNY", "GBP", "JPY"]

# Fixed rates, one unit in US dollars: an example is the same every day.
RATES = {"USD": 1.0, "EUR": 1.1, "CNY": 0.14, "GBP": 1.25, "JPY": 0.0068}


def convert_currency(amount: float, source: Currency, target: Currency) -> float:
    """Convert an amount of money from one currency into another, at fixed example rates.

    Args:
        amount: How much money.
        source: The currency that it is in.
        target: The currency that is wanted.
    """
    return round(amount * RATES[source] / RATES[target], 2)
