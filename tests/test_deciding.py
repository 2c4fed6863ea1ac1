"""Which calls wait, and what decisions make of them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from server.call_policy import Confirm, Effects
from server.callers import NOBODY, Caller
from server.completions import ToolCall
from server.deciding import Decision, Held, args_hash, check, settle
from server.errors import ApprovalVoid, InvalidRequest
from server.functions import Function
from server.permits import JudgedVersion, Policy, stricter, waits
from server.registry import Version


def version(number: int = 1, effects: Effects = "write", confirm: Confirm = "policy") -> Version:
    """A version of a function."""
    function = Function("send", "", (), (), "", "", effects=effects, confirm=confirm)
    return Version(function, number, "")


def held(identity: str = "a", arguments: str = '{"to": "Ada"}') -> Held:
    """A call that waits."""
    return Held(ToolCall(identity, "send", arguments), 1, "write")


@pytest.mark.parametrize(
    ("effects", "confirm", "policy", "expected"),
    [
        ("read", "policy", "writes", False),
        ("write", "policy", "writes", True),
        ("unknown", "policy", "writes", True),
        ("read", "policy", "always", True),
        ("write", "policy", "never", False),
        ("read", "always", "never", True),
        ("write", "never", "always", False),
    ],
)
def test_effects_confirm_and_policy(effects: Effects, confirm: Confirm, policy: Policy, expected: bool) -> None:
    assert waits(version(1, effects, confirm), policy, ()) is expected


@pytest.mark.parametrize(
    ("approved", "expected"), [("send", False), ("send@1", False), ("send@2", True), ("sen", True), ("", True)]
)
def test_what_was_decided_before_is_of_a_version_or_of_all(approved: str, expected: bool) -> None:
    assert waits(version(), "writes", [approved]) is expected


def test_the_stricter_policy_counts() -> None:
    assert [stricter("writes", other) for other in ("never", "writes", "always", None)] == [
        "writes",
        "writes",
        "always",
        "writes",
    ]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ('{"a": 1, "b": 2}', '{"b":2,"a":1}', True),
        ("", "{}", True),
        ('{"a": 1}', '{"a": 2}', False),
        ('{"a": 1}', '{"a": "1"}', False),
        ('{"a": "\\u00e4"}', '{"a": "ä"}', True),
        ("{", "{ ", False),
    ],
)
def test_arguments_that_are_equal_as_json_have_one_hash(one: str, other: str, same: bool) -> None:
    assert (args_hash(one) == args_hash(other)) is same


def judged(active: Version) -> dict[str, JudgedVersion]:
    """A name, as it is now."""
    return {active.function.name: JudgedVersion(active, active)}


ACTIVE = judged(version())


def decision(**more: Any) -> Decision:
    """About the call that waits."""
    return Decision(**{"call_id": "a", "choice": "approve", **more})


@pytest.mark.parametrize(
    "decisions",
    [[], [decision(call_id="b")], [decision(), decision()], [decision(choice="edit")]],
    ids=["none", "another", "twice", "no arguments"],
)
def test_one_decision_for_each_call(decisions: list[Decision]) -> None:
    with pytest.raises(InvalidRequest):
        check([held()], decisions, ACTIVE)


def test_a_decision_is_about_the_arguments_that_were_shown() -> None:
    check([held()], [decision(args_hash=held().args_hash)], ACTIVE)
    with pytest.raises(ApprovalVoid, match="other arguments"):
        check([held()], [decision(args_hash=held(arguments="{}").args_hash)], ACTIVE)


@pytest.mark.parametrize("active", [{}, judged(version(2))], ids=["deleted", "changed"])
def test_what_is_not_active_any_more_can_only_be_rejected(active: dict[str, JudgedVersion]) -> None:
    for choice in ("approve", "edit"):
        with pytest.raises(ApprovalVoid, match="send"):
            check([held()], [decision(choice=choice, arguments={})], active)
    for choice in ("reject", "respond"):
        check([held()], [decision(choice=choice)], active)


def test_a_decision_is_about_bound_values_too() -> None:
    shown = [replace(held(), bound={"to": to}) for to in ("ada", "eve")]
    assert [one.shown()["bound"] for one in shown] == [{"to": "ada"}, {"to": "eve"}]
    assert len({held().args_hash, *(one.args_hash for one in shown)}) == 3
    with pytest.raises(ApprovalVoid, match="other arguments"):
        check([shown[1]], [decision(args_hash=shown[0].args_hash)], ACTIVE)


def test_an_older_version_is_no_way_around_the_policy_of_the_active_one() -> None:
    free = Version(replace(version().function, confirm="never"), 1, "")
    strict = Version(replace(version().function, confirm="always"), 2, "")
    for one in (JudgedVersion(free, strict), JudgedVersion(strict, free)):
        assert one.for_model("writes", ()) is None
        assert one.for_caller("never", NOBODY) is None
        permit = one.for_caller("always", Caller())
        assert permit is not None and permit.version is one.version
    assert JudgedVersion(free, free).for_caller("always", NOBODY) is not None


def test_what_decisions_come_to() -> None:
    waiting = [held(identity) for identity in "abcd"]
    settled = settle(
        waiting,
        [
            decision(call_id="d", choice="respond", text="done by hand"),
            decision(call_id="c", choice="reject", text="no"),
            decision(call_id="b", choice="edit", arguments={"to": "Bob"}),
            decision(call_id="a", scope="session"),
        ],
    )
    assert [(call.id, call.arguments) for call in settled.run] == [("a", '{"to": "Ada"}'), ("b", '{"to": "Bob"}')]
    assert settled.edited == {"b"} and settled.approved == {"send@1"}
    assert settled.answers["d"].content == "done by hand"
    assert json.loads(settled.answers["c"].content)["detail"] == "A person rejected this call: no"
