"""Settings: where they come from, and what leaves through them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from kernels.home import Home
from kernels.limits import PoolLimits
from server.errors import InsecureBind
from server.settings import Settings, rows, unknown


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No `.env` but the test's own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """An empty home."""
    return Home.create(tmp_path / "home")


def test_the_defaults_stay_on_this_machine() -> None:
    settings = Settings()
    assert settings.is_loopback
    assert settings.token is None
    assert settings.functions_dir == Path(__file__).parents[1] / "aigbb_functions"
    assert settings.kernelspecs_dir.name == "kernels"
    settings.check_bind()


def test_flags_come_before_the_environment_before_the_file_before_defaults(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (own_folder / ".env").write_text("AIGBB_PORT=1\nAIGBB_POOL_SIZE=1\nAIGBB_MAX_RUNNING=1\nOTHER=x\n")
    monkeypatch.setenv("AIGBB_PORT", "2")
    monkeypatch.setenv("AIGBB_POOL_SIZE", "2")
    settings = Settings(port=3)
    assert (settings.port, settings.pool_size, settings.max_running) == (3, 2, 1)
    assert settings.keep_generations == 3


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIGBB_PORT", "")
    monkeypatch.setenv("AIGBB_TOKEN", "")
    monkeypatch.setenv("AIGBB_CACHE", "")
    assert Settings().port == 8000
    assert Settings().token is None
    assert Settings().cache is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "-1"),
        ("PORT", "65536"),
        ("PORT", "eighty"),
        ("TIMEOUT", "0"),
        ("KEEP_GENERATIONS", "0"),
        ("MAX_RUNNING", "0"),
        ("MAX_OUTPUT", "10"),
        ("POOL_SIZE", "-1"),
        ("POOL_MAX", "-1"),
        ("KERNEL_MAX_AGE", "0"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"AIGBB_{name}", value)
    with pytest.raises(ValidationError, match=name.lower()):
        Settings()


def test_lists_are_split_at_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIGBB_ALLOWED_HOSTS", " a.example, b.example ,,")
    assert Settings().allowed_hosts == ("a.example", "b.example")
    assert Settings(allowed_hosts=("c",)).allowed_hosts == ("c",)


def test_paths_are_absolute_and_know_the_users_home(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(own_folder / "user"))
    monkeypatch.setenv("AIGBB_HOME", "~/aigbb")
    monkeypatch.setenv("AIGBB_CACHE", "cache")
    settings = Settings()
    assert settings.home == own_folder / "user" / "aigbb"
    assert settings.cache == own_folder / "cache"
    home = settings.open_home()
    assert (home.path, home.cache) == (settings.home, settings.cache)


def test_settings_do_not_change_and_do_not_show_the_token() -> None:
    settings = Settings(token=SecretStr("hush"))
    assert "hush" not in repr(settings) + str(settings.model_dump())
    with pytest.raises(ValidationError):
        settings.port = 1


def test_the_pools_share() -> None:
    settings = Settings(
        pool_size=1, pool_max=6, kernel_max_age=7, max_running=2, max_waiting=3, max_sessions=4, session_idle=5
    )
    assert settings.limits() == PoolLimits(1, 2, 3, 4, 5.0, max_spares=6, max_age=7.0)


@pytest.mark.parametrize(("size", "most"), [(2, 8), (8, 8), (9, 9), (0, 0)])
def test_spares_grow_to_eight_unless_there_are_more_or_none_to_begin_with(size: int, most: int) -> None:
    assert Settings(pool_size=size).limits().max_spares == most


def test_the_least_is_no_more_than_the_most() -> None:
    assert Settings(pool_size=3, pool_max=3).limits().max_spares == 3
    assert Settings(pool_size=0, pool_max=3).limits().max_spares == 3
    with pytest.raises(ValidationError, match="pool_max is 2, less than pool_size, which is 3"):
        Settings(pool_size=3, pool_max=2)


# -- the token


def test_a_token_is_made_once_for_the_owner_only(home: Home) -> None:
    settings = Settings(home=home.path)
    assert settings.find_token() is None
    token = settings.require_token(home)
    assert len(token) >= 40
    assert home.token.stat().st_mode & 0o777 == 0o600
    assert settings.require_token(home) == token
    assert settings.find_token() == token
    assert [path.name for path in home.path.iterdir() if path.is_file()] == ["token"]


def test_two_homes_have_two_tokens(home: Home, tmp_path: Path) -> None:
    assert Settings().require_token(home) != Settings().require_token(Home.create(tmp_path / "other"))


@pytest.mark.parametrize("left", ["", "\n"])
def test_an_empty_token_file_lets_nobody_in(home: Home, left: str) -> None:
    home.token.write_text(left)
    settings = Settings(home=home.path)
    assert settings.find_token() is None
    assert len(settings.require_token(home)) >= 40
    assert home.token.stat().st_mode & 0o777 == 0o600


def test_a_chosen_token_is_used_and_not_written(home: Home) -> None:
    settings = Settings(home=home.path, token=SecretStr("hush"))
    assert settings.require_token(home) == "hush"
    assert settings.find_token() == "hush"
    assert not home.token.exists()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "example.org", ""])
def test_an_open_address_needs_a_chosen_token(host: str) -> None:
    with pytest.raises(InsecureBind):
        Settings(host=host).check_bind()
    Settings(host=host, token=SecretStr("hush")).check_bind()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_loopback_needs_none(host: str) -> None:
    Settings(host=host).check_bind()


# -- what children see


@pytest.fixture
def full_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator's environment, with some secrets of the service."""
    for name in list(os.environ):
        monkeypatch.delenv(name)
    told = ["AIGBB_TOKEN", "OPENAI_API_KEY", "PYTHONPATH", "LD_PRELOAD", "PATH", "HOME", "LANG", "TZ", "UV_INDEX_URL"]
    for name in [*told, "https_proxy", "NO_PROXY", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "XUV_THING"]:
        monkeypatch.setenv(name, f"value of {name}")


@pytest.mark.usefixtures("full_environment")
def test_the_installer_sees_what_reaches_an_index_and_no_more() -> None:
    seen = Settings().uv_environment()
    assert set(seen) == {"PATH", "HOME", "LANG", "UV_INDEX_URL", "https_proxy", "NO_PROXY", "SSL_CERT_FILE"}
    assert seen["PATH"] == "value of PATH"


@pytest.mark.usefixtures("full_environment")
def test_kernels_see_what_the_operator_passes_and_no_more() -> None:
    assert set(Settings().kernel_environment()) == {"TZ", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"}
    passed = Settings(pass_env=("OPENAI_API_KEY", "NOT_SET")).kernel_environment()
    assert set(passed) == {"TZ", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "OPENAI_API_KEY"}


# -- the table


def test_every_setting_is_in_the_table_with_its_help() -> None:
    table = rows()
    assert [name for name, _, _ in table] == [f"AIGBB_{name.upper()}" for name in Settings.model_fields]
    assert all(default and text for _, default, text in table)
    assert ("AIGBB_PORT", "8000") in {(name, default) for name, default, _ in table}
    assert str(Path.home()) not in str(table)


def test_a_misspelt_variable_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIGBB_TIMOUT", "5")
    monkeypatch.setenv("AIGBB_PORT", "5")
    assert unknown() == ["AIGBB_TIMOUT is no setting; did you mean AIGBB_TIMEOUT?"]
