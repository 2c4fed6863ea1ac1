"""Sessions as those who opened them have them: what is somebody else's looks as if it were not there."""

from __future__ import annotations

from kernels.errors import SessionNotFound
from kernels.pool import Pool, SessionInfo
from server.callers import Caller


class Sessions:
    """The pool's sessions, each for its owner and for admins."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def open(self, identity: str | None, caller: Caller, *, pinned: bool = False) -> SessionInfo:
        """A new one. Raises as `Pool.open_session`."""
        return await self._pool.open_session(identity or "", pinned=pinned, owner=caller.owner)

    def listed(self, caller: Caller) -> list[SessionInfo]:
        """Those that the caller sees, oldest first."""
        return [session for session in self._pool.sessions() if caller.sees(session.owner)]

    def check(self, identity: str, caller: Caller) -> None:
        """Raises SessionNotFound, for one that is not there and for one of somebody else."""
        if not caller.sees(self._pool.owner_of(identity)):
            raise SessionNotFound.of(identity)

    def is_owner(self, identity: str, caller: Caller) -> bool:
        """Whether the caller's key opened a session. Raises SessionNotFound."""
        return self._pool.owner_of(identity) == caller.key

    async def interrupt(self, identity: str, caller: Caller) -> None:
        """Interrupt what runs. Raises SessionNotFound, SessionBusy."""
        self.check(identity, caller)
        await self._pool.interrupt_session(identity)

    async def restart(self, identity: str, caller: Caller) -> SessionInfo:
        """Give it a clean kernel. Raises SessionNotFound."""
        self.check(identity, caller)
        return await self._pool.restart_session(identity)

    async def close(self, identity: str, caller: Caller) -> None:
        """End it. Raises SessionNotFound."""
        self.check(identity, caller)
        await self._pool.close_session(identity)
