"""Where bubblewrap is missing and nobody has switched the sandbox off: the admin's token on loopback, and no more."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from kernels.confinement import Confinement
from kernels.errors import ConfinementUnavailable
from server.audit import Audit
from server.callers import EVERYTHING, Caller
from server.keys import Key, Keyring, Rights
from server.refusals import SandboxRequired
from server.unconfined_access import UnconfinedAccess
from tests.conftest import ROOT, running_server, server_environment

pytest_plugins = ["tests.homes_fixtures"]

BARE = Confinement("default", reasons={"bubblewrap": "not installed"})
KEY = Key("1", "agent", "digest", frozenset({"chat"}), EVERYTHING, 0.0)


@pytest.fixture
def without_bubblewrap(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine whose bubblewrap may not run."""
    program = tmp_path / "programs" / "bwrap"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2\nexit 1\n")
    program.chmod(0o755)
    return {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}


def refused(environment: dict[str, str]) -> str:
    """What a service prints that does not start."""
    argv = [sys.executable, "-m", "server", "serve"]
    done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 2, done.stderr
    assert "confinement_unavailable" in done.stderr
    assert "AIGBB_SANDBOX=off" in done.stderr
    return " ".join(done.stderr.split())


@pytest.mark.parametrize("confinement", [Confinement(), replace(BARE, bubblewrap=Path("/usr/bin/bwrap"))])
def test_a_sandbox_and_one_that_was_switched_off_limit_nobody(confinement: Confinement) -> None:
    access = UnconfinedAccess.of(confinement)
    access.check_address("0.0.0.0", loopback=False)
    access.check_keys([KEY], 1.0)
    access.check_new_key()
    assert access.warnings == []
    assert "warning" not in confinement.state()


def test_without_bubblewrap_there_is_nobody_but_the_admin_on_this_machine() -> None:
    access = UnconfinedAccess.of(BARE)
    with pytest.raises(ConfinementUnavailable, match=r"not installed.*does not listen on 0\.0\.0\.0"):
        access.check_address("0.0.0.0", loopback=False)
    access.check_address("127.0.0.1", loopback=True)
    with pytest.raises(ConfinementUnavailable, match=r"an active API key \(agent\)"):
        access.check_keys([KEY], 1.0)
    token = replace(KEY, digest="")
    access.check_keys([token, replace(KEY, revoked=0.5), replace(KEY, expires=0.5)], 1.0)
    with pytest.raises(SandboxRequired, match="created or rotated"):
        access.check_new_key()
    assert "bubblewrap: not installed" in access.warnings[0]
    assert "bubblewrap" in BARE.state()["warning"]


def test_a_service_without_bubblewrap_warns_and_makes_no_keys(
    folder: Path, cache: Path, without_bubblewrap: dict[str, str]
) -> None:
    with running_server(folder, cache, without_bubblewrap) as server, server.client() as client:
        assert "Kernels are not confined: bubblewrap: it does not run here" in " ".join("".join(server.said).split())
        assert "bubblewrap" in client.get("/healthz").json()["confinement"]["warning"]
        assert client.post("/execute", json={"code": "6 * 7"}).json()["result"] == "42"
        answers = [
            client.post("/keys", json={"name": "agent", "scopes": ["chat"]}),
            client.post("/keys/0123/rotate", json={"expires_in_days": 1}),
        ]
        for problem in answers:
            assert problem.status_code == 409
            assert problem.json()["code"] == "sandbox_required"
            assert "apt-get install bubblewrap" in problem.json()["hint"]
        assert len(client.get("/keys").json()) == 1


def test_a_service_without_bubblewrap_is_for_no_other_address_and_no_other_key(
    folder: Path, cache: Path, without_bubblewrap: dict[str, str]
) -> None:
    environment = server_environment(folder, cache) | without_bubblewrap
    open_to_all = {"AIGBB_HOST": "0.0.0.0", "AIGBB_TOKEN": "t" * 40}
    assert "does not listen on 0.0.0.0" in refused(environment | open_to_all)
    path = folder / "home" / "registry.sqlite3"
    with Audit.open(folder / "home" / "audit.sqlite3") as audit, Keyring.open(path, "token", audit) as keys:
        asyncio.run(make_key(audit, keys))  # as a restore would bring it
    assert "The home has an active API key (agent)" in refused(environment)
    with running_server(folder, cache, without_bubblewrap, sandbox="off") as server, server.client() as client:
        assert "warning" not in client.get("/healthz").json()["confinement"]
        assert len(client.get("/keys").json()) == 2


async def make_key(audit: Audit, keys: Keyring) -> None:
    """Make an active one."""
    async with audit, keys:
        await keys.create(Rights("agent", frozenset({"chat"})), Caller())
