"""Permission of calls: which calls need a decision of a person, and the value without which no call runs.

A `Permit` is made here only. `Calls.call` takes nothing else, so a path to a call that was not judged does not exist.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from server.callers import Caller
from server.functions import Function
from server.registry import Version

Policy = Literal["never", "writes", "always"]
POLICIES: tuple[Policy, ...] = ("never", "writes", "always")  # from the one that asks least


@dataclass(frozen=True)
class Permit:
    """The permission to run one version of a function. That version runs, whatever is active by then."""

    version: Version


@dataclass(frozen=True)
class JudgedVersion:
    """The version that a call names, with the active one of the same function, whose policy counts as well."""

    version: Version
    active: Version

    def waits(self, policy: Policy, approved: Collection[str] = ()) -> bool:
        """Whether a call needs a decision by the policy of either version: an older one is no way around."""
        return waits(self.version, policy, approved) or waits(self.active, policy, approved)

    def for_model(self, policy: Policy, approved: Collection[str]) -> Permit | None:
        """The permission of a call that a model wrote. None: it needs a decision, whoever's model it is."""
        return None if self.waits(policy, approved) else Permit(self.version)

    def for_caller(self, policy: Policy, caller: Caller) -> Permit | None:
        """The permission of a call that the caller itself sent. None: it needs a decision."""
        return Permit(self.version) if caller.may("approve") or not self.waits(policy) else None

    def for_decision(self) -> Permit:
        """The permission of a call that a person has decided about, see `deciding.check`."""
        return Permit(self.version)


def stricter(one: Policy, other: Policy | None) -> Policy:
    """The policy that asks more often: a request may ask for more decisions than the service, not for fewer."""
    return max(one, other or one, key=POLICIES.index)


def waits(version: Version, policy: Policy, approved: Collection[str]) -> bool:
    """Whether a call of this needs a decision. approved: functions, or name@version, that were decided about before."""
    function = version.function
    if function.name in approved or str(version) in approved:
        return False
    return function.confirm == "always" or (function.confirm == "policy" and _asks(function, policy))


def _asks(function: Function, policy: Policy) -> bool:
    return policy == "always" or (policy == "writes" and function.effects != "read")
