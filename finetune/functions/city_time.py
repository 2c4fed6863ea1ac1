from datetime import datetime
from typing import Literal
from zoneinfo import ZoneInfo

City = Literal[
    "Paris", "London", "Berlin", "Madrid", "Rome", "Moscow", "Cairo", "Lagos", "Nairobi", "Delhi", "Dubai", "Tokyo",
    "Seoul", "Beijing", "Shanghai", "Singapore", "Sydney", "Auckland", "New York", "Chicago", "Toronto", "Lima",
]  # fmt: skip

ZONES = {
    "Paris": "Europe/Paris", "London": "Europe/London", "Berlin": "Europe/Berlin", "Madrid": "Europe/Madrid",
    "Rome": "Europe/Rome", "Moscow": "Europe/Moscow", "Cairo": "Africa/Cairo", "Lagos": "Africa/Lagos",
    "Nairobi": "Africa/Nairobi", "Delhi": "Asia/Kolkata", "Dubai": "Asia/Dubai", "Tokyo": "Asia/Tokyo",
    "Seoul": "Asia/Seoul", "Beijing": "Asia/Shanghai", "Shanghai": "Asia/Shanghai", "Singapore": "Asia/Singapore",
    "Sydney": "Australia/Sydney", "Auckland": "Pacific/Auckland", "New York": "America/New_York",
    "Chicago": "America/Chicago", "Toronto": "America/Toronto", "Lima": "America/Lima",
}  # fmt: skip


def city_time(city: City) -> str:
    """Tell what time it is in a city, as HH:MM.

    Args:
        city: The city's English name.
    """
    return datetime.now(ZoneInfo(ZONES[city])).strftime("%H:%M")
