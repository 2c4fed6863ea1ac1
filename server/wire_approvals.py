"""What goes over the wire about decisions: calls that wait for a person, and what the person says."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, SecretStr

from kernels.clock import as_time
from server.archive import Approval
from server.deciding import Choice, Decision, Scope
from server.llm import Place
from server.permits import Policy
from server.turns import Waiting
from server.wire import Answer, Body

Confirm = Annotated[
    Policy | None, Field(description="Which calls wait for a person; stricter than AIGBB_CONFIRM or without effect")
]
Approved = Annotated[
    list[str],
    Field(max_length=1000, description="Functions that were decided about, as NAME or NAME@VERSION: calls do not wait"),
]


class HeldCall(Answer):
    """A call that waits, as it would be run."""

    call_id: str
    name: str
    arguments: Annotated[Any, Field(description="As a value; text where it is no JSON")]
    bound: Annotated[dict[str, Any], Field(description="Values of bound parameters, which no model gives")] = {}
    args_hash: Annotated[str, Field(description="sha256 of all arguments; send it back to say what was looked at")]
    version: Annotated[int, Field(description="The version that would run; if another is active, it cannot")]
    effects: Literal["read", "write", "unknown"]


class ApprovalAnswer(Answer):
    """Calls that wait for one decision each."""

    id: Annotated[str, Field(description="Decide with POST /approvals/{id}")]
    conversation: Annotated[str | None, Field(description="Where it goes on; null for calls of /tools/run")]
    status: Annotated[
        Literal["waiting", "decided", "withdrawn", "expired"],
        Field(description="withdrawn: the conversation went on without; expired counts as rejected"),
    ]
    calls: list[HeldCall]
    expires: str
    hint: Annotated[str, Field(description="How to decide, and how not to be asked")]
    outcome: Annotated[
        dict[str, Any] | None,
        Field(description="The answer to decided calls of no conversation, or {`problem`}; null before"),
    ] = None

    @classmethod
    def of(cls, waiting: Waiting, conversation: str | None) -> ApprovalAnswer:
        """From a turn that has ended to wait."""
        calls = [HeldCall(**one.shown()) for one in waiting.held]
        expires = as_time(waiting.expires)
        return cls(
            id=waiting.id,
            conversation=conversation,
            status="waiting",
            calls=calls,
            expires=expires,
            hint=_hint(waiting.id, calls),
        )

    @classmethod
    def of_kept(cls, approval: Approval, now: float) -> ApprovalAnswer:
        """From the archive."""
        late = approval.status == "waiting" and approval.expires <= now
        calls = [HeldCall(**call) for call in approval.calls]
        open_ = approval.status == "waiting" and not late
        return cls(
            id=approval.id,
            conversation=approval.conversation,
            status="expired" if late else approval.status,
            calls=calls,
            expires=as_time(approval.expires),
            hint=_hint(approval.id, calls) if open_ else "Nothing is left to decide.",
            outcome=None if approval.outcome is None else json.loads(approval.outcome),
        )


def _hint(identity: str, calls: list[HeldCall]) -> str:
    names = ", ".join(sorted({call.name for call in calls}))
    return (
        f"Decide with POST /approvals/{identity} and a key with the scope approve. Not to be asked: register what "
        f"changes nothing with `effects`: read, what may go ahead with `confirm`: never; or send `approved`: [{names}] "
        "with such a key; or serve with AIGBB_CONFIRM=never."
    )


class ApprovalsAnswer(Answer):
    """What waits for a person, oldest first."""

    approvals: list[ApprovalAnswer]


class DecisionBody(Body):
    """What a person says of one call."""

    call_id: str
    decision: Annotated[
        Choice, Field(description="approve; edit: run it with these arguments; reject; respond: answer in its stead")
    ]
    arguments: Annotated[dict[str, Any] | None, Field(description="For edit")] = None
    reason: Annotated[str, Field(max_length=2000, description="For reject: what the model is told")] = ""
    content: Annotated[str, Field(description="For respond: what the model reads as the result")] = ""
    args_hash: Annotated[str | None, Field(description="What was looked at; refused if it is not what waits")] = None
    scope: Annotated[
        Scope, Field(description="session: this function needs no more decisions in this conversation")
    ] = "call"

    def decision_of(self) -> Decision:
        """The same as a value of ours."""
        text = self.content if self.decision == "respond" else self.reason
        return Decision(self.call_id, self.decision, self.arguments, text, self.args_hash, self.scope)


class PlaceBody(Body):
    """Another service with models, for this request only."""

    base_url: Annotated[str, Field(pattern=r"^https?://", description="As the openai client takes it, with /v1")]
    api_key: Annotated[
        SecretStr | None, Field(description="The caller's own; the service's is never sent elsewhere")
    ] = None

    def place(self) -> Place:
        """The same as a value of ours."""
        return Place(self.base_url, self.api_key.get_secret_value() if self.api_key else None)


class DecideBody(Body):
    """A decision about each of the calls that wait."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"decisions": [{"call_id": "call_0", "decision": "approve"}]}]}
    )

    decisions: Annotated[list[DecisionBody], Field(min_length=1, max_length=128)]
    service: Annotated[
        PlaceBody | None, Field(description="As in the request that waits, if it named one: its key is not kept")
    ] = None

    def all(self) -> list[Decision]:
        """The decisions as values of ours."""
        return [each.decision_of() for each in self.decisions]

    def place(self) -> Place | None:
        """Where the model is, if it was said."""
        return self.service.place() if self.service else None
