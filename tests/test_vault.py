"""Secrets at rest: nothing to read without the key, nothing lost, and a wrong key says so."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from server.errors import InvalidSecret, SecretsLocked, UnknownSecret
from server.vault import Vault

Open = Callable[..., AbstractContextManager[Vault]]
OLD, NEW = Fernet.generate_key().decode(), Fernet.generate_key().decode()


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    """Opens the vault of a home, with the keys of its file or with others."""
    return lambda keys=None: Vault.open(tmp_path / "registry.sqlite3", tmp_path / "secrets.key", keys)


def test_keeps_values_for_the_next_start_with_a_key_that_only_the_owner_reads(opened: Open, tmp_path: Path) -> None:
    with opened() as vault:
        assert vault.stored() == []
        assert not (tmp_path / "secrets.key").exists()
        assert vault.put("B_KEY", "value of b")[1]
        assert vault.put("A_KEY", "value of a")[1]
        assert not vault.put("B_KEY", "another of b")[1]
    assert (tmp_path / "secrets.key").stat().st_mode & 0o777 == 0o600
    with opened() as vault:
        assert [secret.name for secret in vault.stored()] == ["A_KEY", "B_KEY"]
        assert vault.stored()[0].set.endswith("+00:00")
        assert vault.values(["A_KEY", "B_KEY", "C_KEY"]) == {"A_KEY": "value of a", "B_KEY": "another of b"}
        assert "A_KEY" in vault
    assert not any(b"value of" in path.read_bytes() or b"another" in path.read_bytes() for path in tmp_path.iterdir())


def test_forgets_what_is_deleted_but_still_scrubs_it(opened: Open) -> None:
    with opened() as vault:
        vault.put("A_KEY", "first value")
        vault.put("A_KEY", "second value")
        vault.remove("A_KEY")
        assert "A_KEY" not in vault
        assert vault.values(["A_KEY"]) == {}
        assert vault.scrub({"k": "first value, second value"}) == {"k": "[secret A_KEY], [secret A_KEY]"}
        with pytest.raises(UnknownSecret):
            vault.remove("A_KEY")
    with opened() as vault:
        assert vault.stored() == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("A_KEY", "short"), ("a key", "long enough"), ("", "long enough"), ("PATH", "long enough"),
     ("PYTHONPATH", "long enough"), ("A_KEY", "nul\0 inside"), ("A_KEY", "\ud800 lone"), ("A_KEY", "x" * 40_000)],
)  # fmt: skip
def test_refuses_what_cannot_be_a_secret_without_repeating_it(opened: Open, name: str, value: str) -> None:
    with opened() as vault, pytest.raises(InvalidSecret) as caught:
        vault.put(name, value)
    assert value not in str(caught.value)


@pytest.mark.parametrize("keys", [NEW, "no key at all", ""], ids=["another", "no key", "empty"])
def test_a_wrong_key_is_told_when_a_value_is_needed_and_nothing_is_written_with_it(opened: Open, keys: str) -> None:
    with opened(OLD) as vault:
        vault.put("A_KEY", "value of a")
    with opened(keys) as vault:
        assert [secret.name for secret in vault.stored()] == ["A_KEY"]
        with pytest.raises(SecretsLocked, match="A_KEY cannot be read"):
            vault.values(["A_KEY"])
        with pytest.raises(SecretsLocked):
            vault.put("B_KEY", "value of b")
        vault.remove("A_KEY")
    with opened(OLD) as vault:
        assert vault.stored() == []


def test_a_key_file_that_is_gone_is_not_made_anew_over_what_it_encrypted(opened: Open, tmp_path: Path) -> None:
    with opened() as vault:
        vault.put("A_KEY", "value of a")
    (tmp_path / "secrets.key").unlink()
    with opened() as vault, pytest.raises(SecretsLocked, match="the key is missing"):
        vault.put("B_KEY", "value of b")
    assert not (tmp_path / "secrets.key").exists()


def test_a_new_key_before_the_old_one_takes_over(opened: Open) -> None:
    with opened(OLD) as vault:
        vault.put("A_KEY", "value of a")
        before = vault.stored()
    with opened(f"{NEW},{OLD}") as vault:
        assert vault.values(["A_KEY"]) == {"A_KEY": "value of a"}
    with opened(NEW) as vault:
        assert vault.values(["A_KEY"]) == {"A_KEY": "value of a"}
        assert vault.stored() == before


def test_a_row_cannot_stand_in_anothers_place(opened: Open, tmp_path: Path) -> None:
    with opened() as vault:
        vault.put("A_KEY", "value of a")
        vault.put("B_KEY", "value of b")
    with sqlite3.connect(tmp_path / "registry.sqlite3") as database:
        database.execute("UPDATE secrets SET token = (SELECT token FROM secrets WHERE name = 'B_KEY')")
    database.close()
    with opened() as vault:
        assert vault.values(["B_KEY"]) == {"B_KEY": "value of b"}
        with pytest.raises(SecretsLocked):
            vault.values(["A_KEY"])
