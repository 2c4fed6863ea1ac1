"""The REST door to secrets: set, listed by name, deleted. Nothing here answers a value."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Response
from pydantic import Field, SecretStr

from server.functions import MAX_VALUE
from server.granting import Granted
from server.routing import Here, Who, routes
from server.vault import MIN_VALUE
from server.wire import Answer, Body

router = routes()


class SecretBody(Body):
    """A secret's value."""

    value: Annotated[
        SecretStr,
        Field(
            description="The value; no answer ever holds it",
            examples=["sk-Jx0u7Qm1"],
            json_schema_extra={"minLength": MIN_VALUE, "maxLength": MAX_VALUE},
        ),
    ]


class SecretAnswer(Answer):
    """A secret as it may be seen."""

    name: str
    set: Annotated[str, Field(description="When, UTC")]
    functions: Annotated[list[str], Field(description="The active functions that it is granted to")]

    @classmethod
    def of(cls, found: Granted) -> SecretAnswer:
        """From ours."""
        return cls(name=found.secret.name, set=found.secret.set, functions=list(found.functions))


@router.put(
    "/secrets/{name}",
    tags=["secrets"],
    summary="Set a secret",
    responses={201: {"description": "It is new", "model": SecretAnswer}},
)
async def put_secret(name: str, body: SecretBody, response: Response, service: Here, caller: Who) -> SecretAnswer:
    """Set a secret, or replace its value from the next clean kernel on. Functions that are granted it, by `secrets`
    at registration, find it in their environment; nothing else does, and where it is printed its name stands instead.
    """
    found, is_new = await service.secrets.put(name, body.value.get_secret_value(), caller)
    response.status_code = 201 if is_new else 200
    return SecretAnswer.of(found)


@router.get("/secrets", tags=["secrets"], summary="List secrets")
async def secrets(service: Here) -> list[SecretAnswer]:
    """The names of all secrets, when each was set, and who is granted it; never a value."""
    return [SecretAnswer.of(found) for found in service.secrets.listed()]


@router.delete("/secrets/{name}", status_code=204, tags=["secrets"], summary="Delete a secret")
async def delete_secret(
    name: str,
    service: Here,
    caller: Who,
    force: Annotated[bool, Query(description="Also one that active functions are granted")] = False,
) -> None:
    """Delete a secret. Calls of functions that are granted it are refused from then on."""
    await service.secrets.delete(name, caller, force=force)
