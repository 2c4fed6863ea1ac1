"""What a task is given: the secrets of what it calls, and no others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kernels.tasks import Given, Task
from server.callers import Caller
from server.errors import MissingSecret
from server.functions import Function
from server.granting import Secrets, SecretUse
from server.grants import Grant, GrantStore, RegistrationChange, SecretNotGranted, admitted, code_of, granted
from server.registry import Registry, State, Version
from server.source_reader import start_reader
from server.vault import Vault


def function(name: str, source: str = "", *secrets: str) -> Function:
    """A function that is granted these."""
    return Function(name, source, (), (), "", "", secrets=secrets)


pytestmark = pytest.mark.anyio

USE = SecretUse(Caller())

PAY = function("pay", "", "PAY_KEY")
ASK = function("ask", "", "ASK_KEY", "ASK_USER")
SHOP = function("shop", "from aigbb_functions import pay, tell\n")
TELL = function("tell", "import aigbb_functions as af\n\ndef tell():\n    return af.ask() + af.shop()\n")
FREE = function("free", "def free():\n    pay = ask = 1\n")
ALL = [PAY, ASK, SHOP, TELL, FREE]


def test_a_function_has_its_own_and_those_of_what_its_file_names_in_circles_too() -> None:
    every = ("ASK_KEY", "ASK_USER", "PAY_KEY")
    assert granted(ALL) == {"pay": ("PAY_KEY",), "ask": ("ASK_KEY", "ASK_USER"), "shop": every, "tell": every}
    assert granted([FREE, SHOP, TELL]) == {}


def test_the_grants_are_part_of_the_version() -> None:
    assert len({function("f", "", *names).digest for names in [(), ("A_KEY",), ("B_KEY",), ("A_KEY", "B_KEY")]}) == 4


@pytest.fixture
def secrets(tmp_path: Path) -> Iterator[Secrets]:
    """Of a service with these functions, all of whose secrets are set but one."""
    path = tmp_path / "registry.sqlite3"
    with (
        Registry.open(path) as registry,
        Vault.open(path, tmp_path / "secrets.key", None) as vault,
        GrantStore.open(path) as grants,
    ):
        for name in ("PAY_KEY", "ASK_KEY"):
            vault.put(name, f"value of {name}")
        state = State({f.name: Version(f, 2, "") for f in ALL})
        grants.reconcile(state)
        yield Secrets(vault, grants, registry, lambda: state, start_reader)


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("pay(1)", ["PAY_KEY"]),
        ("x = payment; repay = 1; pay2 = 3; free()", None),
        ("getattr(af, 'pay')()", None),
        ("f'{ask()}'", ["ASK_KEY", "ASK_USER"]),
        ("syntax error ( pay", None),
        ("# pay\n'pay'", None),
        ("%time 1\nawait pay()", ["PAY_KEY"]),
        ("", None),
    ],
)
async def test_code_is_given_those_of_the_functions_that_it_names(
    secrets: Secrets, code: str, names: list[str] | None
) -> None:
    given = (await secrets.given(Task.code(code), (), USE)).given
    assert (given and list(given.names)) == names
    assert given is None or given.values == {n: f"value of {n}" for n in given.names if n != "ASK_USER"}


async def test_a_call_is_given_those_of_its_function(secrets: Secrets) -> None:
    task = await secrets.given(Task.call("pay", {}, budget=1), [Version(PAY, 2, "")], USE)
    code = code_of("pay", ALL)
    assert code.keys() == {"pay"}
    assert task.given == Given({"PAY_KEY": "value of PAY_KEY"}, ("PAY_KEY",), code, once=True)
    assert "value of" not in repr(task)
    assert (await secrets.given(Task.call("free", {}, budget=1), [Version(FREE, 2, "")], USE)).given is None


async def test_another_version_is_given_its_secrets_only_if_its_source_was_granted_them(secrets: Secrets) -> None:
    older = replace(PAY, source="# older")
    with pytest.raises(SecretNotGranted, match="pay@1 is not granted the secret PAY_KEY"):
        await secrets.given(Task.call("pay", {}, budget=1), [Version(older, 1, "")], USE)
    task = await secrets.given(Task.call("pay", {}, budget=1), [Version(PAY, 1, "")], USE)
    assert task.given is not None
    assert task.given.code == {}  # its own source comes with the request


async def test_a_call_of_a_function_whose_secret_is_gone_is_refused(secrets: Secrets) -> None:
    with pytest.raises(MissingSecret, match="ask@2 needs secrets that are not set: ASK_USER") as caught:
        await secrets.given(Task.call("ask", {}, budget=1), [Version(ASK, 2, "")], USE)
    assert caught.value.extra == {"secrets": ["ASK_USER"]}


# -- grants


def state_of(*functions: Function) -> State:
    """Versions of these are active."""
    return State({f.name: Version(f, 1, "") for f in functions})


ORDER = replace(function("order", "from aigbb_functions import helper", "KEY"), uses=("aigbb_functions", "helper"))
HELPER = replace(function("helper", "harmless"), uses=())
EVIL = replace(function("evil", "# from aigbb_functions import order"), uses=())
THIEF = replace(function("thief", "from aigbb_functions import *"), uses=("*", "aigbb_functions"))
AUTHOR = Caller(key="author", admin=False, scopes=frozenset({"functions:register"}))
GRANTER = Caller(key="granter", admin=False, scopes=frozenset({"functions:register", "secrets:grant"}))


@pytest.fixture
def grants(tmp_path: Path) -> Iterator[GrantStore]:
    """In which `order` is granted its secret."""
    with GrantStore.open(tmp_path / "registry.sqlite3") as store:
        store.reconcile(state_of(ORDER, HELPER))
        yield store


@pytest.mark.parametrize(
    "changed",
    [
        [replace(ORDER, source="other")],
        [replace(ORDER, source="other", secrets=())],
        [replace(HELPER, source="other")],
        [replace(function("new", "", "KEY"), uses=())],
        [THIEF],
        [replace(ORDER, source="other", secrets=()), replace(HELPER, source="other")],
    ],
)
def test_code_that_would_run_with_a_secret_comes_from_those_who_may_grant_it(
    grants: GrantStore, changed: list[Function]
) -> None:
    before = state_of(ORDER, HELPER)
    after = before.with_changes([Version(f, 2, "") for f in changed], (), {})
    change = RegistrationChange(before, after, [f.name for f in changed], AUTHOR)
    with pytest.raises(SecretNotGranted) as caught:
        admitted(grants, change)
    assert "secrets:grant" in caught.value.hint
    grants.approve(admitted(grants, replace(change, caller=GRANTER)), GRANTER)
    assert admitted(grants, replace(change, before=after, after=after)) == []


DYNAMIC = "import importlib\n\ndef order():\n    return importlib.import_module('aigbb_functions').helper()\n"
READER = replace(function("reader", "import os; os.environ['SHOP_URL']", "KEY"), uses=(), env=("REGION",))
OTHER = replace(function("other"), uses=(), env=("SHOP_URL", "REGION", "FREE"))


def test_what_is_imported_by_a_string_is_part_of_the_code() -> None:
    order = replace(ORDER, source=DYNAMIC, uses=())
    assert code_of("order", [order, HELPER, EVIL]).keys() == {"order", "helper"}


@pytest.mark.parametrize(
    ("changed", "env", "why"),
    [
        ([READER], {"REGION": "there"}, "reader runs with the secret KEY: another value of the variable REGION"),
        ([OTHER], {"SHOP_URL": "https://elsewhere.example"}, "another value of the variable SHOP_URL"),
        ([replace(READER, network=True)], {}, "a change of `network`"),
        ([replace(READER, packages=("six==1.17.0",))], {}, "a change of `packages`"),
        ([OTHER], {"FREE": "any"}, None),
        ([replace(READER, tags=("new",))], {"REGION": "here"}, None),
    ],
)
def test_what_steers_code_that_has_a_secret_comes_from_those_who_may_grant_it(
    tmp_path: Path, changed: list[Function], env: dict[str, str], why: str | None
) -> None:
    before = replace(state_of(READER), variables={"REGION": "here"})
    after = before.with_changes([Version(f, 2, "") for f in changed], (), env)
    change = RegistrationChange(before, after, [f.name for f in changed], AUTHOR)
    with GrantStore.open(tmp_path / "registry.sqlite3") as store:
        store.reconcile(before)
        assert admitted(store, replace(change, caller=GRANTER)) == []
        if why is None:
            assert admitted(store, change) == []
        else:
            with pytest.raises(SecretNotGranted, match=why):
                admitted(store, change)


def test_what_runs_with_no_secret_comes_from_anybody(grants: GrantStore) -> None:
    before = state_of(ORDER, HELPER)
    after = before.with_changes([Version(f, 2, "") for f in (EVIL, replace(ORDER, description="new"))], (), {})
    assert admitted(grants, RegistrationChange(before, after, ["evil", "order"], AUTHOR)) == []


def test_a_grant_is_kept_until_it_is_withdrawn_or_its_function_is_deleted(tmp_path: Path, grants: GrantStore) -> None:
    code = code_of("order", [ORDER, HELPER])
    with GrantStore.open(tmp_path / "registry.sqlite3") as again:
        assert again.allows("KEY", "order", code)
        again.reconcile(state_of(ORDER, HELPER, function("late", "", "KEY")))  # an older service's grants come once
        assert again.functions("KEY") == ("order",)
    assert not grants.allows("KEY", "order", {**code, "helper": "other"})
    grants.forget(["order"])
    assert not grants.allows("KEY", "order", code)
    grants.replace("KEY", [Grant("KEY", "order", None)], GRANTER)
    assert (grants.functions("KEY"), grants.allows("KEY", "order", code)) == (("order",), False)
