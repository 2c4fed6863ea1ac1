from typing import Literal


def convert_temperature(value: float, unit: Literal["celsius", "fahrenheit"]) -> float:
    """Convert a temperature into the other unit.

    Args:
        value: The temperature.
        unit: The unit that it is in.
    """
    return round(value * 9 / 5 + 32 if unit == "celsius" else (value - 32) * 5 / 9, 1)
