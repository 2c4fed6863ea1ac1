"""Who asks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Caller:
    """The id of a key, and of the request. Both go into history. The default is the service itself."""

    key: str = "service"
    request_id: str = ""
    admin: bool = True

    def sees(self, owner: str) -> bool:
        """Whether what `owner`, the id of a key, has made may be seen and stopped."""
        return self.admin or owner == self.key
