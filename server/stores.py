"""What a service keeps in its home's databases, opened together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from kernels.home import Home
from server.archive import Archive
from server.audit import Audit
from server.grants import GrantStore
from server.keys import Keyring
from server.registry import Registry
from server.settings import Settings
from server.vault import Vault


@dataclass(frozen=True)
class Stores:
    """What is kept in the home's databases."""

    registry: Registry
    archive: Archive
    vault: Vault
    grants: GrantStore
    keys: Keyring
    audit: Audit

    @classmethod
    @contextmanager
    def open(cls, settings: Settings, home: Home) -> Iterator[Stores]:
        """Open or create them."""
        path = home.database
        with (
            Registry.open(path) as registry,
            Archive.open(path) as archive,
            Vault.open(path, home.secrets_key, settings.secrets_keys()) as vault,
            GrantStore.open(path) as grants,
            Audit.open(home.audit) as audit,
            Keyring.open(path, settings.require_token(home), audit) as keys,
        ):
            yield cls(registry, archive, vault, grants, keys, audit)
