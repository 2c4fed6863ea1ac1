"""The REST door to secrets: set, listed by name, deleted. Nothing here answers a value."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Response
from pydantic import Field, SecretStr

from server.functions import check_name
from server.granting import Granted
from server.routing import Here, Who, routes
from server.variables import MAX_VALUE
from server.vault import MIN_VALUE
from server.wire import Answer, Body

router = routes()


class SecretBody(Body):
    """A secret's value, and the functions that may have it."""

    value: Annotated[
        SecretStr | None,
        Field(
            description="The value, which no response contains; without it, the value stays",
            examples=["sk-Jx0u7Qm1"],
            json_schema_extra={"minLength": MIN_VALUE, "maxLength": MAX_VALUE},
        ),
    ] = None
    functions: Annotated[
        list[str] | None,
        Field(
            description="The functions that may have it, each with the source that is active now, and no others; "
            "without it, they stay",
            max_length=1000,
            examples=[["order"]],
        ),
    ] = None


class SecretAnswer(Answer):
    """A secret as it may be seen."""

    name: str
    set: Annotated[str, Field(description="When, UTC")]
    functions: Annotated[list[str], Field(description="The functions that it names")]

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
    """Set a secret, or replace its value from the next clean kernel on. The functions that it names, and that ask for
    it with `secrets` at registration, find it in their environment. In output, its name is shown in place of its value.
    """
    value = None if body.value is None else body.value.get_secret_value()
    for function in body.functions or ():
        check_name(function)
    found, is_new = await service.secrets.put(name, value, body.functions, caller)
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
