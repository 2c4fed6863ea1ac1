"""What goes over the wire about functions: registrations, versions, history."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, ConfigDict, Field, StrictBool

from server.call_policy import Confirm, Effects
from server.errors import AigbbError, InvalidName
from server.functions import Declared, Draft
from server.registrar import Registered, Synced, Wanted
from server.registry import Event, Version
from server.tools import not_strict
from server.wire import Answer, Body, Number, bounded

# -- requests


_REGISTER_EXAMPLE: dict[str, Any] = {
    "name": "slug",
    "source": "from slugify import slugify\n\ndef slug(text: str) -> str:\n    return slugify(text)\n",
    "packages": ["python-slugify"],
    "env": {},
    "effects": "read",
}


Line = Annotated[str, Field(max_length=1000)]


class DescriptionBody(Body):
    """A function's description as some models' documentation has it, with the schema of what it answers."""

    model_config = ConfigDict(extra="ignore")

    name: str | None = None
    description: Annotated[str, Field(max_length=20_000)]
    parameters: dict[str, Any] | None = None
    responses: dict[str, Any] | None = None


class FunctionBody(Body):
    """A function to register. The names of the original API (functionName, ...) are taken as well."""

    model_config = ConfigDict(json_schema_extra={"examples": [_REGISTER_EXAMPLE]})

    name: Annotated[
        str | None,
        Field(
            validation_alias=AliasChoices("name", "functionName"),
            description="Name of the function; may be left out when the source defines exactly one",
        ),
    ] = None
    source: Annotated[
        str,
        Field(
            validation_alias=AliasChoices("source", "functionScript"),
            description="Python source that defines the function; at most 256 KiB",
        ),
    ]
    packages: Annotated[
        Annotated[list[Line], Field(max_length=500)] | Annotated[str, Field(max_length=50_000)],
        Field(description="Requirements, as a list or one a line; names and versions only"),
    ] = []
    env: Annotated[
        dict[str, str],
        bounded(200),
        Field(
            max_length=200,
            validation_alias=AliasChoices("env", "envVariables"),
            description="Environment variables of the kernel; values are never shown again",
        ),
    ] = {}

    secrets: Annotated[
        list[str],
        Field(max_length=200, description="Names of stored secrets that it finds in its environment; see PUT /secrets"),
    ] = []
    network: Annotated[
        bool, Field(description="Whether its calls have the network where kernels are confined without one")
    ] = False
    tags: Annotated[list[str], Field(max_length=100, description="Words to find it, and sets of tools, by")] = []
    bound: Annotated[
        list[str],
        Field(max_length=200, description="Parameters that the caller of a model fills in; models never see them"),
    ] = []
    description: Annotated[
        Annotated[str, Field(max_length=20_000)] | DescriptionBody | None,
        Field(description="Instead of the docstring; as an object, with schemas"),
    ] = None
    input_schema: Annotated[
        dict[str, Any] | None, Field(description="JSON Schema of the arguments, instead of the inferred one")
    ] = None
    responses: Annotated[
        dict[str, Any] | None, Field(description="JSON Schema of the result, instead of the inferred one")
    ] = None
    effects: Annotated[
        Effects | None,
        Field(description="What a call may do; left out, it is inferred: `read` where the source cannot reach out"),
    ] = None
    confirm: Annotated[
        Confirm, Field(description="Whether a person is asked before a model's call runs; `policy`: as the chat says")
    ] = "policy"
    on_conflict: Annotated[
        Literal["new_version", "error"], Field(description="What to do when the name is taken by another source")
    ] = "new_version"
    if_match: Annotated[str | None, Field(description="The digest that the active version must have, else 412")] = None

    def wanted(self, if_match: str | None = None) -> Wanted:
        """The same as a value of ours. if_match: from a header. Raises InvalidName."""
        lines = self.packages.splitlines() if isinstance(self.packages, str) else self.packages
        told = (self.tags, self.bound, self._declared(), self.effects, self.confirm, self.secrets, self.network)
        draft = Draft(self.source, self.name, tuple(lines), self.env, *told)
        return Wanted(draft, self.on_conflict, self.if_match or if_match)

    def _declared(self) -> Declared:
        told = self.description
        if not isinstance(told, DescriptionBody):
            return Declared(told, self.input_schema, self.responses)
        if told.name is not None and self.name is not None and told.name != self.name:
            raise InvalidName(f"The description is of {told.name[:80]!r}, the function is {self.name[:80]!r}.")
        return Declared(told.description, self.input_schema or told.parameters, self.responses or told.responses)


class RegisterBody(FunctionBody):
    """A function to register now, or to try out."""

    dry_run: Annotated[StrictBool, Field(description="Do everything but the commit; nothing stays")] = False


class BatchBody(Body):
    """Functions to register together: all of them, or none."""

    functions: Annotated[list[FunctionBody], Field(min_length=1, max_length=100)]
    dry_run: Annotated[StrictBool, Field(description="Do everything but the commit; nothing stays")] = False


class ActivateBody(Body):
    """A version that is to serve again."""

    version: Number
    env: Annotated[
        dict[str, str],
        bounded(200),
        Field(max_length=200, description="Values for variables of it that are not kept any more"),
    ] = {}


# -- answers


class WarningAnswer(Answer):
    """Something the author should know."""

    code: str
    message: str


class FunctionAnswer(Answer):
    """A registered function."""

    name: str
    version: int
    signature: str
    description: str
    parameters: Annotated[dict[str, Any], Field(description="JSON Schema of the arguments, as one object")]
    returns: Annotated[dict[str, Any], Field(description="JSON Schema of the result; empty if nothing is known")]
    packages: list[str]
    env: Annotated[list[str], Field(description="Names only")]
    secrets: Annotated[list[str], Field(description="Names only")]
    network: Annotated[bool, Field(description="Whether its calls have the network where kernels have none")]
    tags: list[str]
    bound: Annotated[list[str], Field(description="Parameters that models never see")]
    effects: Annotated[Effects, Field(description="As declared, or else as inferred")]
    confirm: Annotated[Confirm, Field(description="Whether a person is asked before a model's call runs")]
    digest: str
    created: str

    @classmethod
    def of(cls, version: Version, **more: Any) -> Any:
        """From a version."""
        function = version.function
        return cls(
            name=function.name,
            version=version.number,
            signature=function.signature,
            description=function.description,
            parameters=dict(function.parameters),
            returns=dict(function.returns),
            packages=list(function.packages),
            env=list(function.env),
            secrets=list(function.secrets),
            network=function.network,
            tags=list(function.tags),
            bound=list(function.bound),
            effects=function.effects,
            confirm=function.confirm,
            digest=f"sha256:{function.digest}",
            created=version.created,
            **more,
        )


class FunctionDetail(FunctionAnswer):
    """A function, or an older version of it, with its source."""

    source: str
    active: bool
    not_strict: Annotated[str | None, Field(description="Why models cannot be held to its schema strictly, if so")]

    @classmethod
    def of_version(cls, version: Version, *, active: bool) -> FunctionDetail:
        """From a version."""
        reason = not_strict(version.function)
        detail: FunctionDetail = cls.of(version, source=version.function.source, active=active, not_strict=reason)
        return detail


class VersionAnswer(Answer):
    """One line of a function's versions."""

    version: int
    digest: str
    created: str
    active: bool
    signature: str
    packages: list[str]

    @classmethod
    def of(cls, version: Version, *, active: bool) -> VersionAnswer:
        """From a version."""
        function = version.function
        return cls(
            version=version.number,
            digest=f"sha256:{function.digest}",
            created=version.created,
            active=active,
            signature=function.signature,
            packages=list(function.packages),
        )


class DiffAnswer(Answer):
    """What changed from one version to another, as a unified diff."""

    name: str
    old: int
    new: int
    diff: str


class HistoryAnswer(Answer):
    """A line of history. key is the id of the caller's key; outcome is ok, unchanged, or an error's code."""

    id: int
    at: str
    key: str
    request_id: str
    action: str
    name: str | None
    version: int | None
    digest: str | None
    outcome: str
    duration_ms: float

    @classmethod
    def of(cls, event: Event) -> HistoryAnswer:
        """From an event."""
        answer = cls.model_validate(event)
        return answer.model_copy(update={"digest": event.digest and f"sha256:{event.digest}"})


class PackageChanges(Answer):
    """What the registration changed in the environment, as name==version."""

    added: list[str] = []
    removed: list[str] = []
    changed: list[str] = []


class RegisterAnswer(FunctionAnswer):
    """What became of a registration."""

    unchanged: bool
    dry_run: bool
    kernel: str
    generation: int
    snapshot: int
    new_generation: Annotated[bool, Field(description="Whether a new environment was built")]
    resolution: Annotated[str, Field(description="Where versions came from: kept, cache, index")]
    package_changes: PackageChanges
    warnings: list[WarningAnswer]
    timings_ms: dict[str, float]

    @classmethod
    def of_registered(cls, done: Registered) -> RegisterAnswer:
        """From what the registrar says."""
        answer: RegisterAnswer = cls.of(
            done.version,
            unchanged=done.unchanged,
            dry_run=done.dry_run,
            kernel=done.serving.generation.kernel_name,
            generation=done.serving.generation.number,
            snapshot=done.serving.state.snapshot,
            new_generation=done.new_generation,
            resolution=done.resolution,
            package_changes=PackageChanges(**done.packages),
            warnings=[WarningAnswer.model_validate(w) for w in done.warnings],
            timings_ms=dict(done.timings_ms),
        )
        return answer


class BatchAnswer(Answer):
    """What became of functions that were registered together, in the order of the request."""

    functions: list[RegisterAnswer]


class FileProblem(Answer):
    """A file that was left alone, and why."""

    file: str
    code: str
    detail: str
    hint: str
    location: Annotated[dict[str, Any] | None, Field(description="Where in the file, if that is known")] = None
    fix: dict[str, Any] | None = None


class SyncAnswer(Answer):
    """What became of the files in the functions' folder."""

    registered: list[RegisterAnswer]
    problems: list[FileProblem]

    @classmethod
    def of(cls, synced: Synced) -> SyncAnswer:
        """From what the registrar says."""
        return cls(
            registered=[RegisterAnswer.of_registered(one) for one in synced.registered],
            problems=[_file_problem(file, error) for file, error in synced.failures.items()],
        )


def _file_problem(file: str, error: AigbbError) -> FileProblem:
    more = {name: error.extra.get(name) for name in ("location", "fix")}
    return FileProblem(file=file, code=error.code, detail=error.detail, hint=error.hint, **more)
