"""Who may use a service whose kernels nothing confines: the admin's token, from this machine, and nobody else."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from kernels.confinement import Confinement
from kernels.errors import ConfinementUnavailable
from server.keys import Key
from server.refusals import SandboxRequired

CHOICE = "Install bubblewrap (apt-get install bubblewrap), or set AIGBB_SANDBOX=off where something else confines it."


@dataclass(frozen=True, slots=True)
class UnconfinedAccess:
    """The limits of a service with AIGBB_SANDBOX=auto on a machine without bubblewrap; none where `reason` is empty."""

    reason: str = ""

    @classmethod
    def of(cls, confinement: Confinement) -> Self:
        """Return what is open to whom with this confinement."""
        return cls(confinement.missing)

    @property
    def warnings(self) -> list[str]:
        """What the operator has to know at each start."""
        return [f"{self._what} Only the admin token may be used, and only from this machine."] if self.reason else []

    def check_address(self, host: str, *, loopback: bool) -> None:
        """Raise ConfinementUnavailable for an address that other machines reach."""
        if self.reason and not loopback:
            raise ConfinementUnavailable(f"{self._what} The service does not listen on {host} then.", hint=CHOICE)

    def check_keys(self, keys: Iterable[Key], now: float) -> None:
        """Raise ConfinementUnavailable if there are active keys for others than the admin."""
        active = [key.name for key in keys if key.digest and key.status(now) == "active"]
        if self.reason and active:
            what = "an active API key" if len(active) == 1 else f"{len(active)} active API keys"
            named = ", ".join(sorted(active)[:5])
            raise ConfinementUnavailable(f"{self._what} The home has {what} ({named}).", hint=CHOICE)

    def check_new_key(self) -> None:
        """Raise SandboxRequired where no key may become active."""
        if self.reason:
            raise SandboxRequired(f"{self._what} API keys can't be created or rotated.")

    @property
    def _what(self) -> str:
        return f"Kernels are not confined: bubblewrap: {self.reason}."
