"""The house keeps its shape: imports run one way, names stay where they belong, files stay small."""

from __future__ import annotations

import ast
import functools
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Each module may import those on lines above its own, and those on its own line only where noted.
ORDER = [
    ["kernels.clock", "kernels.endings", "kernels.untrusted_files"],
    ["kernels.errors", "kernels.progress", "kernels.outputs", "kernels.home", "kernels.seccomp", "kernels.cgroups"],
    ["kernels.mounts", "kernels.storage"],
    ["kernels.views"],
    ["kernels.confinement", "kernels.inspecting"],
    ["kernels.sandbox", "kernels.suggestions"],
    ["kernels.messages", "kernels.admission", "kernels.channels"],
    ["kernels.tasks", "kernels.workplace"],
    ["kernels.packages", "kernels.standby", "kernels.machine"],
    ["kernels.font_lists"],
    ["kernels.bytecode"],
    ["kernels.environments"],
    ["kernels.kernelspecs", "kernels.probing", "kernels.provisioner", "kernels.kernel"],
    ["kernels.forkserver", "kernels.spares", "kernels.limits"],
    ["kernels.pool"],
    [
        "server.call_policy",
        "server.errors",
        "server.refusals",
        "server.models",
        "server.allowlist",
        "server.hints",
        "server.observing",
    ],
    ["server.patterns"],
    ["server.blocks"],
    ["server.origins"],
    ["server.effects"],
    ["server.reading"],
    ["server.logs", "server.metrics"],
    ["server.callers", "server.scrubbing"],
    ["server.model_services"],
    ["server.asking", "server.database", "server.draining", "server.settings", "server.schemas"],
    ["server.estimates"],
    ["server.arguments", "server.ceilings", "server.following", "server.variables"],
    ["server.source_reader"],
    ["server.functions", "server.strict", "server.tracing", "server.exporting"],
    ["server.registry", "server.snapshots", "server.diffing", "server.samples"],
    ["server.audit", "server.grants", "server.permits", "server.vault"],
    ["server.granting", "server.keys", "server.scopes", "server.sessions"],
    ["server.unconfined_access"],
    ["server.publishing", "server.planning", "server.verifying", "server.idempotency", "server.results"],
    ["server.damage", "server.tools", "server.search", "server.operations", "server.completions"],
    ["server.reconciler"],
    ["server.backup"],
    ["server.restoring"],
    ["server.snippets", "server.catalog", "server.changing", "server.conversations", "server.llm"],
    ["server.archive", "server.collection", "server.telling", "server.registrar"],
    ["server.running"],
    ["server.executions", "server.stores"],
    ["server.calls"],
    ["server.choosing", "server.deciding", "server.dialects", "server.pictures"],
    ["server.batch"],
    ["server.turns"],
    ["server.loop", "server.approvals"],
    ["server.chat", "server.direct"],
    ["server.service", "server.client"],
    ["server.wire", "server.access"],
    ["server.wire_approvals"],
    [
        "server.wire_calls",
        "server.wire_functions",
        "server.wire_keys",
        "server.rates",
        "server.protocol",
        "server.api_drain",
        "server.documentation",
    ],
    ["server.wire_chat", "server.wire_executions"],
    ["server.wire_openai"],
    ["server.auth"],
    ["server.routing"],
    ["server.replying"],
    [
        "server.api_chat",
        "server.api_execute",
        "server.api_executions",
        "server.api_functions",
        "server.api_keys",
        "server.api_openai",
        "server.api_secrets",
    ],
    ["server.api"],
    ["server.serving", "server.printing"],
    ["server.doctor"],
    ["server.terminal", "server.cli_functions"],
    [
        "server.cli_executions",
        "server.cli_home",
        "server.cli_keys",
        "server.cli_secrets",
        "server.cli_versions",
    ],
    ["server.cli_approvals"],
    ["server.cli_chat"],
    ["server.cli"],
    ["server.__main__"],
]
LEVEL = {name: level for level, names in enumerate(ORDER) for name in names}
MODULES = sorted(p for folder in ("kernels", "server") for p in (ROOT / folder).glob("*.py") if p.stem != "__init__")
INSIDE = sorted((ROOT / "kernels" / "inside").glob("*.py"))


def module_name(path: Path) -> str:
    """As it is imported."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


@functools.cache
def parsed(path: Path) -> ast.Module:
    """Parse each file once."""
    return ast.parse(path.read_text())


@functools.cache
def imports(path: Path) -> frozenset[str]:
    """Every module that a file imports, anywhere in it."""
    return imports_of(ast.walk(parsed(path)))


def imports_of(nodes: Iterable[ast.AST]) -> frozenset[str]:
    """Every module that these statements import."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(found)


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_run_one_way(path: Path) -> None:
    own = module_name(path)
    assert own in LEVEL, "a new module needs its place in ORDER"
    wrong = {name for name in imports(path) & LEVEL.keys() if LEVEL[name] >= LEVEL[own]}
    assert wrong == set()


@pytest.mark.parametrize("path", INSIDE, ids=module_name)
def test_what_runs_inside_kernels_imports_nothing_of_the_service(path: Path) -> None:
    roots = {name.split(".")[0] for name in imports(path)}
    assert roots.isdisjoint({"kernels", "server", "structlog", "fastapi"})


@pytest.mark.parametrize("name", ["launch", "package", "functions", "calling"])
def test_a_kernel_starts_without_what_only_calls_need(name: str) -> None:
    """pydantic takes a good part of a start: a spare loads it when it is prepared."""
    tree = parsed(ROOT / "kernels" / "inside" / f"{name}.py")
    at_once = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    found = imports_of(at_once)
    assert found.isdisjoint({"pydantic", "pydantic_core", "contract", "forms", "arguments"})


def test_only_those_who_keep_something_know_the_database() -> None:
    users = {path.stem for path in MODULES if any(n.split(".")[0] == "sqlalchemy" for n in imports(path))}
    assert users == {"archive", "audit", "database", "grants", "keys", "registry", "vault"}


def test_figures_and_traces_have_one_home_each() -> None:
    roots = {path.stem: {name.split(".")[0] for name in imports(path)} for path in MODULES}
    assert {stem for stem, found in roots.items() if "prometheus_client" in found} == {"metrics"}
    assert {stem for stem, found in roots.items() if "opentelemetry" in found} == {"exporting", "tracing"}


def test_the_rest_door_is_the_only_one_that_knows_http() -> None:
    roots = {path.stem: {name.split(".")[0] for name in imports(path)} for path in MODULES}
    users = {stem for stem, found in roots.items() if not found.isdisjoint({"fastapi", "starlette"})}
    assert users == {
        "access",
        "api",
        "api_chat",
        "api_drain",
        "api_execute",
        "api_executions",
        "api_functions",
        "api_keys",
        "api_openai",
        "api_secrets",
        "auth",
        "documentation",
        "rates",
        "replying",
        "routing",
        "wire",
        "wire_chat",
        "wire_executions",
    }


def test_the_engine_knows_nothing_of_http() -> None:
    for path in MODULES:
        if path.parent.name == "kernels":
            roots = {name.split(".")[0] for name in imports(path)}
            assert roots.isdisjoint({"server", "fastapi", "starlette", "openai", "sqlalchemy"}), path.name


def test_jupyter_and_zmq_have_one_home() -> None:
    users = {path.stem for path in MODULES if any(n.split(".")[0] == "zmq" for n in imports(path))}
    assert users == {"channels", "kernel", "pool"}
    clients = {path.stem for path in MODULES if any(n.split(".")[0] == "jupyter_client" for n in imports(path))}
    assert clients == {"channels", "kernel", "provisioner"}


@pytest.mark.parametrize("path", [*MODULES, *INSIDE], ids=module_name)
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 450
    for node in ast.walk(parsed(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert (node.end_lineno or 0) - node.lineno < 50, node.name


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_the_environment_is_read_in_settings_only(path: Path) -> None:
    reads = re.search(r"\bos\.(environ|getenv)\b", path.read_text())
    assert (reads is not None) == (path.stem == "settings" and path.parent.name == "server")


def test_pinned_requirements_and_the_package_name_the_same_dependencies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[><=;\s]", line)[0] for line in project["dependencies"]}
    pinned = {
        line.split("==")[0]
        for line in (ROOT / "requirements.txt").read_text().splitlines()
        if line and line[0] not in "#-"
    }
    assert pinned == declared


def test_the_lock_holds_every_pin() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    for name in ("requirements.txt", "tests/requirements.txt"):
        pins = re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / name).read_text(), re.MULTILINE)
        for package, version in pins:
            wanted = re.sub(r"[-_.]+", "-", package).lower()
            assert f"{wanted}=={version}" in lock
