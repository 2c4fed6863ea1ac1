from datetime import datetime
from typing import Literal
from zoneinfo import ZoneInfo

City = Literal[
    "Paris", "London", "Berlin", "Madrid", "Rome", "Cairo", "Tokyo", "Beijing", "Shanghai",
    "Sydney", "New York", "Toronto",
]  # fmt: skip

ZONES = {
    "Paris": "Europe/Paris", "London": "Europe/London", "Berlin": "Europe/Berlin", "Madrid": "Europe/Madrid",
    "Rome": "Europe/Rome", "Cairo": "Africa/Cairo", "Tokyo": "Asia/Tokyo", "Beijing": "Asia/Shanghai",
    "Shanghai": "Asia/Shanghai", "Sydney": "Australia/Sydney", "New York": "America/New_York",
    "Toronto": "America/Toronto",
}  # fmt: skip


def city_time(city: City) -> str:
    """Tell what time it is in a city, as HH:MM.

    Args:
        city: The city's English name.
    """
    return datetime.now(ZoneInfo(ZONES[city])).strftime("%H:%M")
