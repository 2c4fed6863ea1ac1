"""What a task is given: the secrets of what it calls, and no others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kernels.tasks import Given, Task
from server.errors import MissingSecret
from server.functions import Function
from server.granting import Secrets, granted
from server.registry import Registry, State, Version
from server.vault import Vault


def function(name: str, source: str = "", *secrets: str) -> Function:
    """A function that is granted these."""
    return Function(name, source, (), (), "", "", secrets=secrets)


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
    with Registry.open(path) as registry, Vault.open(path, tmp_path / "secrets.key", None) as vault:
        for name in ("PAY_KEY", "ASK_KEY"):
            vault.put(name, f"value of {name}")
        state = State({f.name: Version(f, 2, "") for f in ALL})
        yield Secrets(vault, registry, lambda: state)


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("pay(1)", ["PAY_KEY"]),
        ("x = payment; repay = 1; pay2 = 3; free()", None),
        ("getattr(af, 'pay')()", ["PAY_KEY"]),
        ("f'{ask()}'", ["ASK_KEY", "ASK_USER"]),
        ("syntax error ( pay", ["PAY_KEY"]),
        ("", None),
    ],
)
def test_code_is_given_those_of_the_functions_that_it_names(
    secrets: Secrets, code: str, names: list[str] | None
) -> None:
    given = secrets.given(Task.code(code), ()).given
    assert (given and list(given.names)) == names
    assert given is None or given.values == {n: f"value of {n}" for n in given.names if n != "ASK_USER"}


def test_a_call_is_given_those_of_its_function(secrets: Secrets) -> None:
    task = secrets.given(Task.call("pay", {}, budget=1), [Version(PAY, 2, "")])
    assert task.given == Given({"PAY_KEY": "value of PAY_KEY"}, ("PAY_KEY",))
    assert "value of" not in repr(task)
    assert secrets.given(Task.call("free", {}, budget=1), [Version(FREE, 2, "")]).given is None


def test_a_pinned_version_is_given_what_it_was_granted(secrets: Secrets) -> None:
    older = function("free", "from aigbb_functions import pay", "ASK_KEY")
    task = secrets.given(Task.call("free", {}, budget=1), [Version(older, 1, "")])
    assert task.given is not None
    assert task.given.names == ("ASK_KEY", "PAY_KEY")


def test_a_call_of_a_function_whose_secret_is_gone_is_refused(secrets: Secrets) -> None:
    with pytest.raises(MissingSecret, match="ask@2 needs secrets that are not set: ASK_USER") as caught:
        secrets.given(Task.call("ask", {}, budget=1), [Version(ASK, 2, "")])
    assert caught.value.extra == {"secrets": ["ASK_USER"]}
