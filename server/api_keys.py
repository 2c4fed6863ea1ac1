"""The REST door to keys, and to who did what with them."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import Query

from server.audit import Looked
from server.routing import Here, Who, routes
from server.wire_keys import KeyAnswer, KeyBody, LineAnswer, NewKeyAnswer, RotateBody

router = routes()


@router.get("/keys", tags=["keys"], summary="List keys")
async def list_keys(service: Here) -> list[KeyAnswer]:
    """The service's own token, and all keys there ever were, without their secrets."""
    now = time.time()
    return [KeyAnswer.of(key, now) for key in service.keys.listed()]


@router.post("/keys", status_code=201, tags=["keys"], summary="Make a key")
async def create_key(body: KeyBody, service: Here, caller: Who) -> NewKeyAnswer:
    """Make a key for somebody else, with no more scopes than they need. What is in `key` is shown this once."""
    service.unconfined.check_new_key()
    key, secret = await service.keys.create(body.rights(), caller)
    return NewKeyAnswer.of_new(key, secret, time.time())


@router.delete("/keys/{identity}", status_code=204, tags=["keys"], summary="Revoke a key")
async def revoke_key(identity: str, service: Here, caller: Who) -> None:
    """From the next request on, the key opens nothing. It stays in the list."""
    await service.keys.revoke(identity, caller)


@router.post("/keys/{identity}/rotate", tags=["keys"], summary="Rotate a key")
async def rotate_key(identity: str, service: Here, caller: Who, body: RotateBody | None = None) -> NewKeyAnswer:
    """Another secret for the same key: the one before opens nothing any more, and what the key owns stays its own."""
    service.unconfined.check_new_key()
    days = body.expires_in_days if body else None
    key, secret = await service.keys.rotate(identity, days, caller)
    return NewKeyAnswer.of_new(key, secret, time.time())


@router.get("/audit", tags=["keys"], summary="Who ran and decided what")
async def audit(
    service: Here,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    before: Annotated[int | None, Query(description="Only lines with a smaller id, for the next page")] = None,
    by: Annotated[str | None, Query(description="Only of the key of this id")] = None,
    action: Annotated[str | None, Query(description="Only of this kind")] = None,
) -> list[LineAnswer]:
    """Every execution, call, decision and change of a key, newest first. Changes of functions are in `/history`."""
    return [LineAnswer.of(line) for line in await service.audit.lines(Looked(limit, before, by, action))]
