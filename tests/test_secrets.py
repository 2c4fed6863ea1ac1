"""Secrets through the doors: set and never shown, in the kernels of those who are granted them, and in no other."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
from typer.testing import CliRunner

from server.cli import app
from server.client import Aigbb
from tests.conftest import Server, running_server
from tests.doors import call, execute, problem, register, stream, tool_call

VALUE = "s3cr3t/Value+of=Charge"
MODEL_KEY = "the-models-own-key-0451"

CHARGE = '''
import os

KEY = os.environ["CHARGE_KEY"]

def charge(amount: int) -> dict:
    """Charge."""
    return {"length": len(KEY), "same": os.environ["CHARGE_KEY"] == KEY, "amount": amount}
'''
BILL = '''
from aigbb_functions import charge

def bill() -> dict:
    """Charge through another function."""
    return charge(amount=2)
'''
PLAIN = '''
import os

def plain() -> dict:
    """What a function without secrets sees."""
    import glob
    seen = []
    for path in glob.glob("/proc/*/environ"):
        try:
            seen.append(open(path, "rb").read().decode(errors="replace"))
        except OSError:
            pass
    return {"own": "CHARGE_KEY" in os.environ, "others": sum("CHARGE_KEY=" in text for text in seen)}
'''
SHOW = '''
import os, sys

def show(how: str) -> str:
    """Show the secret in some way."""
    value = os.environ["SHOWN"]
    if how == "print":
        print("printed", value)
    elif how == "split":
        for part in (value[:5], value[5:9], value[9:]):
            print(part, end="", flush=True)
        print(value, file=sys.stderr)
    elif how == "raise":
        raise ValueError(f"no {value!r}")
    elif how == "display":
        from IPython.display import JSON, display
        display(JSON({value: [value]}), {"k": value})
    elif how == "die":
        os.write(2, value.encode())
        os.abort()
    return f"result {value}"
'''


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Server]:
    """A service of this module's own."""
    folder = tmp_path_factory.mktemp("secrets")
    (folder / "aigbb_functions").mkdir()
    with running_server(folder, cache, {"OPENAI_API_KEY": MODEL_KEY}, pool_size=1, pool_max=1) as started:
        yield started


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx2.Client]:
    """With one secret, and functions that it is granted to."""
    with server.client() as opened:
        assert opened.put("/secrets/CHARGE_KEY", json={"value": VALUE}).status_code == 201
        assert opened.put("/secrets/SHOWN", json={"value": VALUE[::-1]}).status_code == 201
        register(opened, CHARGE, secrets=["CHARGE_KEY"])
        register(opened, BILL)
        register(opened, PLAIN)
        register(opened, SHOW, secrets=["SHOWN"], effects="read")
        yield opened


# -- set, listed, deleted


def test_values_go_in_and_never_come_out(client: httpx2.Client) -> None:
    answer = client.put("/secrets/PASSING", json={"value": "one value"})
    assert (answer.status_code, answer.json()["name"], answer.json()["functions"]) == (201, "PASSING", [])
    assert client.put("/secrets/PASSING", json={"value": "another value"}).status_code == 200
    listed = {one["name"]: one for one in client.get("/secrets").json()}
    assert listed["PASSING"].keys() == {"name", "set", "functions"}
    assert listed["CHARGE_KEY"]["functions"] == ["bill", "charge"]
    assert client.delete("/secrets/PASSING").status_code == 204
    problem(client.delete("/secrets/PASSING"), 404, "unknown_secret")
    lines = [(one["action"], one["name"]) for one in client.get("/history", params={"limit": 3}).json()]
    assert lines == [("delete_secret", "PASSING"), ("set_secret", "PASSING"), ("set_secret", "PASSING")]


@pytest.mark.parametrize(
    ("name", "body", "code"),
    [
        ("SHORT", {"value": "12345"}, "invalid_secret"),
        ("PYTHONPATH", {"value": "long enough"}, "invalid_secret"),
        ("GOOD", {"value": ["very-odd-value"]}, "invalid_request"),
        ("GOOD", {"valeu": "very-odd-value"}, "invalid_request"),
    ],
)
def test_what_cannot_be_a_secret_is_refused_and_not_repeated(
    client: httpx2.Client, name: str, body: dict[str, Any], code: str
) -> None:
    answer = client.put(f"/secrets/{name}", json=body)
    problem(answer, 422, code)
    assert "very-odd-value" not in answer.text
    assert "12345" not in answer.text


def test_one_that_is_granted_is_deleted_only_by_force_and_then_missed(client: httpx2.Client) -> None:
    client.put("/secrets/FORCED", json={"value": "forced value"})
    register(client, "def forced() -> int:\n    return 1\n", secrets=["FORCED"])
    assert problem(client.delete("/secrets/FORCED"), 409, "secret_in_use")["users"] == ["forced"]
    assert client.delete("/secrets/FORCED", params={"force": "true"}).status_code == 204
    assert problem(client.post("/functions/forced/call", json={}), 422, "missing_secret")["secrets"] == ["FORCED"]
    assert execute(client, "forced()")["status"] == "error"
    problem(client.post("/functions/forced/activate", json={"version": 1, "env": {"X": "1"}}), 422, "missing_secret")
    client.put("/secrets/FORCED", json={"value": "forced again"})
    problem(client.post("/functions/forced/call", json={}), 403, "secret_not_granted")
    client.put("/secrets/FORCED", json={"functions": ["forced"]})
    assert call(client, "forced")["result"] == 1
    assert client.delete("/functions/forced").status_code == 204
    assert client.delete("/secrets/FORCED").status_code == 204


# -- granted


def test_grants_are_shown_and_make_versions(client: httpx2.Client) -> None:
    assert client.get("/functions/charge").json()["secrets"] == ["CHARGE_KEY"]
    source = "def graded() -> int:\n    return 1\n"
    assert register(client, source)["secrets"] == []
    assert register(client, source, secrets=["SHOWN", "CHARGE_KEY"])["version"] == 2
    again = client.post("/register", json={"source": source, "secrets": ["CHARGE_KEY", "SHOWN"]})
    assert (again.status_code, again.json()["unchanged"]) == (200, True)
    assert client.delete("/functions/graded").status_code == 204


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"secrets": ["NOWHERE"]}, "missing_secret"),
        ({"secrets": ["not a name"]}, "invalid_secret"),
        ({"secrets": ["SHOWN"], "env": {"SHOWN": "x"}}, "invalid_secret"),
    ],
)
def test_grants_that_cannot_be_are_refused(client: httpx2.Client, more: dict[str, Any], code: str) -> None:
    source = "def ungranted() -> int:\n    return 1\n"
    problem(client.post("/register", json={"source": source, **more}), 422, code)
    problem(client.post("/register/batch", json={"functions": [{"source": source, **more}]}), 422, code)
    problem(client.get("/functions/ungranted"), 404, "unknown_function")


def test_an_import_that_fails_does_not_tell(client: httpx2.Client) -> None:
    source = "import os\nprint(os.environ['SHOWN'])\nraise ValueError(os.environ['SHOWN'])\n\ndef loud(): ...\n"
    answer = client.post("/register", json={"source": source, "secrets": ["SHOWN"]})
    assert problem(answer, 422, "import_failed")["exception"] == "ValueError: [secret SHOWN]"
    assert VALUE[::-1] not in answer.text
    default = "import os\n\ndef loud(a: str = os.environ['SHOWN']) -> str:\n    return 'x'\n"
    answer = client.post("/register", json={"source": default, "secrets": ["SHOWN"], "dry_run": True})
    assert answer.status_code == 200
    assert VALUE[::-1] not in answer.text


# -- who has it


def test_a_call_has_the_secrets_of_its_function_and_of_those_that_it_uses(client: httpx2.Client) -> None:
    expected = {"length": len(VALUE), "same": True, "amount": 2}
    assert call(client, "charge", {"amount": 2})["result"] == expected
    assert call(client, "bill")["result"] == expected
    assert call(client, "charge@1", {"amount": 2})["result"] == expected
    [message] = client.post("/tools/run", json={"tool_calls": [tool_call("c", "show", {"how": "return"})]}).json()[
        "messages"
    ]
    assert message["content"] == "result [secret SHOWN]"


OWN = """
import os
try:
    environ = open("/proc/self/environ", "rb").read()
except PermissionError:  # unless one may trace all processes
    environ = b""
print("CHARGE_KEY" in os.environ, b"CHARGE_KEY=" in environ)
"""


def test_no_other_kernel_and_no_process_has_it(client: httpx2.Client) -> None:
    assert call(client, "plain")["result"] == {"own": False, "others": 0}
    assert execute(client, OWN)["output"] == "False False\n"
    assert execute(client, f"charge(1)\n{OWN}")["output"] == "True False\n"
    assert execute(client, "from aigbb_functions import *; plain()['own']")["result"] == "False"


def test_a_session_keeps_what_it_was_given_and_no_other_has_it(client: httpx2.Client) -> None:
    look = "import os; sorted(n for n in ('CHARGE_KEY', 'SHOWN') if n in os.environ)"
    mine, other = (client.post("/sessions").json()["id"] for _ in range(2))
    assert execute(client, look, session=mine)["result"] == "[]"
    assert call(client, "charge", {"amount": 1}, session=mine)["status"] == "ok"
    assert execute(client, look, session=mine)["result"] == "['CHARGE_KEY']"
    assert execute(client, look, session=other)["result"] == "[]"
    dynamic = "import aigbb_functions as af; getattr(af, 'sh' + 'ow')"
    assert "waits for secrets" in execute(client, dynamic, session=mine)["error"]
    for session in (mine, other):
        client.delete(f"/sessions/{session}")


def test_a_value_that_is_replaced_is_new_in_the_next_kernel_and_the_old_one_is_still_hidden(
    client: httpx2.Client,
) -> None:
    client.put("/secrets/SHOWN", json={"value": "the newer value"})
    reply = call(client, "show", {"how": "print"})
    assert (reply["stdout"], reply["result"]) == ("printed [secret SHOWN]\n", "result [secret SHOWN]")
    assert execute(client, "import os; show; len(os.environ['SHOWN'])")["result"] == "15"
    assert execute(client, f"print({VALUE[::-1]!r})")["output"] == "[secret SHOWN]\n"
    client.put("/secrets/SHOWN", json={"value": VALUE[::-1]})


# -- granted to whom, by whom

SEEN = "import os; sorted(n for n in ('CHARGE_KEY', 'SHOWN') if n in os.environ)"


@pytest.fixture(scope="module")
def key(client: httpx2.Client, server: Server) -> Iterator[Callable[..., httpx2.Client]]:
    """Makes a client that has a key with these scopes."""
    with ExitStack() as opened:

        def made(*scopes: str) -> httpx2.Client:
            created = client.post("/keys", json={"name": "k", "scopes": scopes}).json()["key"]
            headers = {"Authorization": f"Bearer {created}"}
            return opened.enter_context(httpx2.Client(base_url=server.url, headers=headers))

        yield made


Key = Callable[..., httpx2.Client]


def test_an_author_has_no_secret_until_it_names_the_function_with_its_source(client: httpx2.Client, key: Key) -> None:
    author = key("functions:register", "functions:read", "execute:function", "approve")
    body = {"source": CHARGE.replace("charge", "levy"), "secrets": ["CHARGE_KEY"]}
    refused = problem(author.post("/register", json=body), 403, "secret_not_granted")
    assert (refused["function"], refused["scopes"]) == ("levy", ["secrets:grant"])
    assert "PUT /secrets/CHARGE_KEY" in refused["hint"]
    assert "replaces" in refused["hint"]  # whoever follows it word by word would withdraw the others
    problem(author.post("/register/batch", json={"functions": [body]}), 403, "secret_not_granted")
    problem(author.post("/register", json={**body, "dry_run": True}), 403, "secret_not_granted")
    problem(author.get("/secrets"), 403, "forbidden")
    problem(author.put("/secrets/CHARGE_KEY", json={"functions": ["levy"]}), 403, "forbidden")
    # By a name alone, an author has nothing: nobody has seen the source. With `bill`, the others keep theirs.
    client.put("/secrets/CHARGE_KEY", json={"functions": ["bill", "charge", "levy"]})
    problem(author.post("/register", json=body), 403, "secret_not_granted")
    lazy = "import os\n\ndef levy() -> int:\n    return len(os.environ.get('CHARGE_KEY', ''))\n"
    register(author, lazy)
    assert call(author, "levy")["result"] == 0
    client.put("/secrets/CHARGE_KEY", json={"functions": ["bill", "charge", "levy"]})
    register(author, lazy, secrets=["CHARGE_KEY"])
    assert call(author, "levy")["result"] == len(VALUE)
    problem(author.post("/register", json={"source": f"{lazy}\nprint('x')\n"}), 403, "secret_not_granted")
    client.put("/secrets/CHARGE_KEY", json={"functions": ["bill", "charge"]})
    for name in ("levy", "levy@2"):
        problem(author.post(f"/functions/{name}/call", json={}), 403, "secret_not_granted")
    author.delete("/functions/levy")


def test_what_a_granted_function_imports_is_not_replaced_by_an_author(client: httpx2.Client, key: Key) -> None:
    author = key("functions:register", "functions:read")
    register(client, "def helper() -> int:\n    return 1\n")
    user = "import os\nfrom aigbb_functions import helper\n\ndef using() -> int:\n    return helper()\n"
    register(client, user, secrets=["SHOWN"])
    evil = "import os\n\ndef helper() -> str:\n    return os.environ['SHOWN'][::-1]\n"
    refused = problem(author.post("/register", json={"source": evil}), 403, "secret_not_granted")
    assert "using, which imports helper" in refused["detail"]
    thief = "from aigbb_functions import show\n\ndef thief() -> str:\n    return show('return')[::-1]\n"
    problem(author.post("/register", json={"source": thief}), 403, "secret_not_granted")
    told = "# from aigbb_functions import show\ndef thief() -> bool:\n    'aigbb_functions show'\n    import os\n"
    register(author, f"{told}    return 'SHOWN' in os.environ\n")
    assert call(client, "thief")["result"] is False
    assert call(client, "using")["result"] == 1
    # Deleted and made again, the name has nothing.
    author.delete("/functions/using")
    problem(author.post("/register", json={"source": user, "secrets": ["SHOWN"]}), 403, "secret_not_granted")
    problem(author.post("/functions/using/activate", json={"version": 1}), 403, "secret_not_granted")
    register(key("functions:register", "functions:read", "secrets:grant"), user, secrets=["SHOWN"])
    assert "using" in next(one["functions"] for one in client.get("/secrets").json() if one["name"] == "SHOWN")
    for name in ("using", "thief", "helper"):
        client.delete(f"/functions/{name}")


@pytest.mark.parametrize(
    "statement",
    [
        "from . import show",
        "from .show import os as system",
        "from aigbb_functions import *",
        "import aigbb_functions.show as module",
        "import aigbb_functions as af; af.show",
    ],
)
def test_no_form_of_import_gives_an_author_the_secret_of_another_function(
    client: httpx2.Client, key: Key, statement: str
) -> None:
    author = key("functions:register", "functions:read")
    source = f"{statement}\n\ndef taker() -> int:\n    return 1\n"
    problem(author.post("/register", json={"source": source}), 403, "secret_not_granted")
    problem(client.get("/functions/taker"), 404, "unknown_function")


def test_no_way_of_changing_functions_brings_other_code_to_a_secret(
    client: httpx2.Client, server: Server, key: Key
) -> None:
    author = key("functions:register", "functions:read", "execute:function", "approve")
    evil = "import os\n\ndef part() -> str:\n    return os.environ.get('SHOWN', 'none')[::-1]\n"
    good = "def part() -> str:\n    return 'good'\n"
    source = "from aigbb_functions import part\n\ndef whole() -> str:\n    return part()\n"
    register(author, evil)
    register(author, good)
    register(client, source, secrets=["SHOWN"])
    problem(author.post("/functions/part/activate", json={"version": 1}), 403, "secret_not_granted")
    both = [{"source": evil}, {"source": source}]
    problem(author.post("/register/batch", json={"functions": both}), 403, "secret_not_granted")
    file = server.functions / "part.py"
    there = file.read_text()
    file.write_text(evil)
    assert [one["code"] for one in author.post("/sync").json()["problems"]] == ["secret_not_granted"]
    file.write_text(there)
    assert call(author, "part@1")["result"] == "enon"
    assert call(author, "whole")["result"] == "good"
    # Without its secret the function is anybody's, and no version of it has the secret with the new code.
    register(author, source)
    register(author, evil)
    assert call(author, "whole")["result"] == "enon"
    for path, body in [
        ("/functions/whole@1/call", {}),
        ("/functions/whole/activate", {"version": 1}),
        ("/register", {"source": source, "secrets": ["SHOWN"]}),
    ]:
        problem(author.post(path, json=body), 403, "secret_not_granted")
    for name in ("whole", "part"):
        assert author.delete(f"/functions/{name}").status_code == 204
    renamed = source.replace("whole", "Whole").replace("part", "show")
    problem(author.post("/register", json={"source": renamed}), 403, "secret_not_granted")


def test_an_author_does_not_steer_a_function_that_has_a_secret(client: httpx2.Client, key: Key) -> None:
    author = key("functions:register", "functions:read", "execute:function", "approve")
    source = (
        "import importlib, os\n\ndef sending() -> str:\n    importlib.import_module('aigbb_functions').posting()\n"
        "    return os.environ['SEND_TO'] + os.environ.get('SEND_BY', '')\n"
    )
    register(client, "def posting() -> int:\n    return 1\n")
    body: dict[str, Any] = {"source": source, "secrets": ["SHOWN"], "env": {"SEND_TO": "here"}}
    register(client, **body)
    evil = "import os\n\ndef posting() -> str:\n    return os.environ['SHOWN']\n"
    other = "def bystander() -> int:\n    return 1\n"
    for path, sent in [
        ("/register", {**body, "env": {"SEND_TO": "elsewhere"}}),
        ("/register", {**body, "network": True}),
        ("/register", {"source": evil}),
        ("/register", {"source": other, "env": {"SEND_BY": "elsewhere"}}),
        ("/register/batch", {"functions": [{**body, "env": {"SEND_TO": "elsewhere"}}]}),
        ("/functions/sending/activate", {"version": 1, "env": {"SEND_TO": "elsewhere"}}),
    ]:
        assert "secrets:grant" in problem(author.post(path, json=sent), 403, "secret_not_granted")["hint"]
    assert call(author, "sending")["result"] == "here"
    register(author, source, secrets=["SHOWN"], env={"SEND_TO": "here"}, tags=["mail"])
    assert author.delete("/functions/posting").status_code == 204
    problem(author.post("/register", json={"source": evil}), 403, "secret_not_granted")
    assert client.delete("/functions/sending").status_code == 204


def test_code_has_secrets_only_by_a_key_that_may_grant_them(client: httpx2.Client, key: Key) -> None:
    coder, granter = key("execute:code", "execute:function", "approve"), key("execute:code", "secrets:grant")
    assert execute(coder, f"charge\n{SEEN}")["status"] == "error"
    assert execute(coder, f"# charge, show\n'charge'\n{SEEN}")["result"] == "[]"
    assert execute(granter, f"# charge, show\n'charge'\n{SEEN}")["result"] == "[]"
    assert execute(granter, f"charge\n{SEEN}")["result"] == "['CHARGE_KEY']"
    # A call in a session of such a key leaves nothing there, and nobody else's call either.
    session = coder.post("/sessions").json()["id"]
    assert call(coder, "charge", {"amount": 2}, session=session)["result"]["length"] == len(VALUE)
    assert call(client, "charge", {"amount": 2}, session=session)["status"] == "ok"
    execute(client, "1; charge", session=session)
    assert execute(coder, SEEN, session=session)["result"] == "[]"
    coder.delete(f"/sessions/{session}")


def test_a_variable_has_one_value_and_steers_no_process(client: httpx2.Client) -> None:
    one, two = (f"def region_{n}() -> int:\n    return {n}\n" for n in (1, 2))
    register(client, one, env={"REGION": "a"})
    taken = problem(client.post("/register", json={"source": two, "env": {"REGION": "b"}}), 409, "variable_conflict")
    assert taken["functions"] == ["region_1"]
    register(client, one, env={"REGION": "b"})
    register(client, two, env={"REGION": "b"})
    more = {"version": 1, "env": {"REGION": "c"}}
    problem(client.post("/functions/region_1/activate", json=more), 409, "variable_conflict")
    both = [{"source": one, "env": {"REGION": "c"}}, {"source": two, "env": {"REGION": "d"}}]
    problem(client.post("/register/batch", json={"functions": both}), 409, "variable_conflict")
    both[1]["env"] = {"REGION": "c"}
    assert client.post("/register/batch", json={"functions": both}).status_code in (200, 201)
    answer = client.post("/register", json={"source": one, "env": {"https_proxy": "http://x"}})
    assert "AIGBB_PASS_ENV" in problem(answer, 422, "invalid_env")["hint"]
    problem(client.put("/secrets/SSL_CERT_FILE", json={"value": "long enough"}), 422, "invalid_secret")
    for name in ("region_1", "region_2"):
        client.delete(f"/functions/{name}")


# -- scrubbed


@pytest.mark.parametrize("how", ["print", "split", "raise", "display", "die", "return"])
def test_no_answer_and_no_event_shows_it(client: httpx2.Client, how: str) -> None:
    shown = VALUE[::-1]
    said = json.dumps(call(client, "show", {"how": how}))
    followed = list(stream(client, "/execute", {"code": f"show({how!r})"}))
    assert shown not in said
    assert shown not in "".join(str(data.get("text", data)) for _, data in followed)
    if how == "split":
        assert "".join(data["text"] for name, data in followed if name == "stdout") == "[secret SHOWN]"
    if how != "die":
        assert "[secret SHOWN]" in said
        assert "[secret SHOWN]" in json.dumps([data for _, data in followed])


def test_it_is_nowhere_in_clear_text(client: httpx2.Client, server: Server) -> None:
    execute(client, "charge(1); show('print')")
    files = [path for path in server.home.parent.rglob("*") if path.is_file() and "cache" not in path.parts]
    files = [path for path in files if "venv" not in path.parts]
    values = VALUE.encode(), VALUE[::-1].encode()
    assert (server.home / "registry.sqlite3") in files
    assert [path for path in files if any(value in path.read_bytes() for value in values)] == []
    assert not any(value.decode() in line for line in server.said for value in values)
    assert json.loads((server.functions / "charge.json").read_text()) == {"secrets": ["CHARGE_KEY"]}


# -- what the service itself knows


def test_the_service_and_kernels_with_secrets_let_no_other_process_of_their_user_read_them(
    client: httpx2.Client, server: Server
) -> None:
    # What is not dumpable is root's in /proc, whoever runs it; as root, prctl itself has to say.
    asks = "import ctypes; ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)"
    assert [execute(client, f"{more}{asks}")["result"] for more in ("# charge\n", "charge; ")] == ["1", "0"]
    if os.geteuid():
        assert Path(f"/proc/{server.process.pid}/environ").stat().st_uid == 0


def test_the_services_own_environment_is_not_that_of_kernels_and_their_parent(client: httpx2.Client) -> None:
    code = """
import os
def text(pid):
    try:
        return open(f"/proc/{pid}/environ", "rb").read().decode(errors="replace")
    except PermissionError:
        return ""
print([n for n in os.environ if n.startswith(("OPENAI", "AIGBB_TOKEN", "AIGBB_HOME"))])
print(any("OPENAI" in text(pid) for pid in ("self", os.getppid())))
"""
    assert execute(client, code)["output"] == "[]\nFalse\n"


# -- from the command line, and from Python


def test_commands_set_list_grant_and_delete(client: httpx2.Client, server: Server, tmp_path: Path) -> None:
    environment = {**server.environment, "AIGBB_PORT": server.url.rpartition(":")[2]}

    def aigbb(*arguments: str, stdin: str = "", code: int = 0) -> str:
        done = CliRunner().invoke(app, arguments, input=stdin, env=environment)
        assert done.exit_code == code, done.output
        return done.output

    file = tmp_path / "typed.py"
    file.write_text("import os\n\ndef typed() -> int:\n    return len(os.environ['TYPED'])\n")
    assert "TYPED is set" in aigbb("secrets", "set", "TYPED", stdin="typed value\n")
    aigbb("register", str(file), "--secret", "TYPED")
    assert call(client, "typed")["result"] == len("typed value")
    assert "granted to typed" in aigbb("secrets", "set", "TYPED", stdin="typed value\n")
    assert {"name": "TYPED", "functions": ["typed"]}.items() <= json.loads(aigbb("secrets", "list", "--json"))[
        -1
    ].items()
    assert "TYPED" in aigbb("secrets", "list")
    assert "TYPED" in aigbb("show", "typed")
    assert "secret_in_use" in aigbb("secrets", "delete", "TYPED", code=2)
    assert "deleted" in aigbb("secrets", "delete", "TYPED", "--force")
    aigbb("delete", "typed")


def test_programs_set_list_and_delete(client: httpx2.Client, server: Server) -> None:
    with Aigbb(server.url, server.token) as aigbb:
        assert aigbb.set_secret("PROGRAM", "programs value")["name"] == "PROGRAM"
        aigbb.register("def program() -> int:\n    return 1\n", secrets=["PROGRAM"])
        assert [one["functions"] for one in aigbb.secrets() if one["name"] == "PROGRAM"] == [["program"]]
        aigbb.delete_secret("PROGRAM", force=True)
        aigbb.delete("program")
