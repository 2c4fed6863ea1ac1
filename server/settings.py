"""Settings: one field is one name, default and help. The only reader of the environment."""

from __future__ import annotations

import difflib
import json
import os
import re
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from jupyter_core.paths import jupyter_data_dir
from pydantic import ByteSize, Field, SecretStr, StrictBool, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from uv import find_uv_bin

from kernels.confinement import Bounds
from kernels.home import Home, write_atomically
from kernels.limits import PoolLimits
from kernels.mounts import Exposure, Mount
from server.errors import InsecureBind
from server.model_services import ServiceAddress
from server.models import NAMES

# Clean kernels that are kept ready at most, where nothing else is said.
POOL_MAX = 8

GIB = 1024**3
_ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:\d{1,5})?|https?://\[[0-9a-f:]+\](:\d{1,5})?")

LOOPBACK = ("127.0.0.1", "localhost", "::1")

# What uv needs of our environment, and what a kernel gets of it: never more than these.
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
_UV_NAMES = {"PATH", "HOME", "TMPDIR", "LANG", "XDG_CACHE_HOME", "NETRC", "SSL_CERT_FILE", "SSL_CERT_DIR"}
_UV_NAMES |= {*_PROXIES, *(name.upper() for name in _PROXIES)}
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")
_KERNEL_NAMES = ("TZ", *_CERTIFICATES)


def _root() -> Path:
    """The checkout that we run from, else the current folder."""
    checkout = Path(__file__).parents[1]
    return checkout if (checkout / "aigbb_functions").is_dir() else Path.cwd()


@dataclass(frozen=True)
class ModelService:
    """What is known of the service that has the models: Azure's, or any other that speaks OpenAI's protocol."""

    azure: bool
    has_key: bool


class Settings(BaseSettings):
    """Read from flags of `serve`, then AIGBB_* in the environment, then `.env`, then these defaults."""

    model_config = SettingsConfigDict(
        env_prefix="AIGBB_", env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True
    )

    home: Annotated[Path, Field(description="Folder of everything kept at run time")] = Field(
        default_factory=lambda: _root() / ".aigbb"
    )
    host: Annotated[str, Field(description="Address to listen on; beyond loopback a token must be set")] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535, description="Port to listen on; 0 takes a free one")] = 8000
    token: Annotated[
        SecretStr | None, Field(description="Bearer token; without one, a generated one in the home folder")
    ] = None
    secrets_key: Annotated[
        SecretStr | None,
        Field(description="Fernet key for secrets, older ones after it by comma; else a generated one in the home"),
    ] = None
    allowed_hosts: Annotated[
        tuple[str, ...],
        NoDecode,
        Field(description="More names that a Host header may carry, by comma"),
    ] = ()
    functions_dir: Annotated[Path, Field(description="Folder of the functions' files")] = Field(
        default_factory=lambda: _root() / "aigbb_functions"
    )
    cache: Annotated[Path | None, Field(description="Cache of downloaded packages; by default in the home folder")] = (
        None
    )
    kernelspecs_dir: Annotated[Path, Field(description="Where Jupyter looks for the user's kernels")] = Field(
        default_factory=lambda: Path(jupyter_data_dir()) / "kernels"
    )
    keep_generations: Annotated[
        int, Field(ge=1, description="Environments kept for rollback, the current one included")
    ] = 3
    pool_size: Annotated[int, Field(ge=0, le=64, description="Clean kernels kept ready, at least")] = 2
    pool_max: Annotated[
        int | None,
        Field(ge=0, le=256, description="Clean kernels kept ready, at most; by default 8 unless AIGBB_POOL_SIZE is 0"),
    ] = None
    kernel_max_age: Annotated[
        float, Field(gt=0, description="Seconds after which a clean kernel that nobody needed is replaced")
    ] = 3600.0
    fork: Annotated[
        bool, Field(description="Fork kernels from a warm parent, where the system can; else each is started")
    ] = True
    sandbox: Annotated[
        Literal["auto", "required", "off"],
        Field(description="Confinement of kernels: auto, required (hardened, or the service does not start), off"),
    ] = "auto"
    mounts: Annotated[
        tuple[str, ...],
        NoDecode,
        Field(description="Comma-separated paths to show in kernels, read-only, or writable with `:rw` behind"),
    ] = ()
    kernel_memory: Annotated[
        ByteSize | None,
        Field(ge=GIB, description="Memory of a kernel, such as 4GiB; without one, 2GiB where hardened"),
    ] = None
    kernel_pids: Annotated[int, Field(ge=32, description="Processes and threads of a kernel")] = 256
    kernel_cpus: Annotated[
        float | None, Field(gt=0, description="Processors that a kernel may keep busy, where hardened; all by default")
    ] = None
    max_running: Annotated[int, Field(ge=1, le=256, description="Executions at once")] = 4
    max_waiting: Annotated[int, Field(ge=0, description="Executions that may wait; more are refused")] = 64
    max_sessions: Annotated[int, Field(ge=0, description="Sessions open at once")] = 16
    session_idle: Annotated[float, Field(gt=0, description="Seconds without use that end a session")] = 1800.0
    timeout: Annotated[float, Field(gt=0, description="Seconds that an execution may take by default")] = 30.0
    max_timeout: Annotated[float, Field(gt=0, description="Longest `timeout` a caller may ask for")] = 3600.0
    max_output: Annotated[
        int,
        Field(ge=1024, le=16 * 1024 * 1024, description="Characters of text an execution may answer"),
    ] = 1024 * 1024
    max_content: Annotated[
        int, Field(ge=256, le=1024 * 1024, description="Characters of a call's result that a model is shown")
    ] = 20_000
    keep_executions: Annotated[
        int, Field(ge=1, description="Executions that have ended and are kept for who asked with `respond-async`")
    ] = 200
    execution_seconds: Annotated[float, Field(gt=0, description="Seconds that such an execution is kept")] = 3600.0
    max_body: Annotated[int, Field(ge=1024, description="Largest request body, in bytes")] = 1024 * 1024
    max_headers: Annotated[int, Field(ge=1024, description="Bytes of a request's URL and headers together")] = 32 * 1024
    header_seconds: Annotated[float, Field(gt=0, description="Seconds in which a request's headers must come")] = 10.0
    body_seconds: Annotated[float, Field(gt=0, description="Seconds in which a request's body must come")] = 60.0
    stall_seconds: Annotated[
        float, Field(gt=0, description="Seconds for which a client may take nothing of its answer")
    ] = 60.0
    idle_seconds: Annotated[
        int, Field(ge=1, description="Seconds for which a connection is kept without a request")
    ] = 20
    max_connections: Annotated[int, Field(ge=1, description="Connections at once; more are answered 503")] = 1000
    rate: Annotated[
        str | None, Field(description="Requests that a key may send, such as 100/second or 5000/hour; - for any number")
    ] = "60000/minute"
    key_running: Annotated[
        int | None, Field(ge=1, description="Requests that a key may have at once; - for any number")
    ] = 128
    guess_rate: Annotated[
        str | None,
        Field(description="Wrong keys per client address before more are refused with 429; - for any number"),
    ] = "30/minute"
    cors_origins: Annotated[
        tuple[str, ...],
        NoDecode,
        Field(
            description="Origins whose pages may call the service from a browser, by comma; exact, as https://a.example"
        ),
    ] = ()
    build_timeout: Annotated[float, Field(gt=0, description="Seconds for one step of the installer")] = 600.0
    import_timeout: Annotated[
        float, Field(gt=0, description="Seconds in which the functions of a registration must import")
    ] = 20.0
    pass_env: Annotated[
        tuple[str, ...],
        NoDecode,
        Field(description="Variables of the service for kernels too, by comma"),
    ] = ()
    model: Annotated[str | None, Field(description="The model that chat asks, where a request names none")] = None
    models: Annotated[
        Mapping[str, Mapping[str, StrictBool]],
        NoDecode,
        Field(description="What models can do, where the table is wrong: JSON, abilities by pattern of names"),
    ] = {}
    model_services: Annotated[
        tuple[str, ...],
        NoDecode,
        Field(description="Comma-separated base URLs of model services that chat requests may name"),
    ] = ()
    model_timeout: Annotated[float, Field(gt=0, description="Seconds in which a model must answer")] = 120.0
    max_rounds: Annotated[int, Field(ge=1, le=100, description="Requests to the model in a turn of chat")] = 10
    max_calls: Annotated[int, Field(ge=1, description="Calls in a turn of chat")] = 50
    max_tokens: Annotated[int | None, Field(ge=1, description="Tokens in a turn of chat; unlimited by default")] = None
    max_seconds: Annotated[
        float, Field(gt=0, description="Seconds after which a turn of chat is brought to its end")
    ] = 600.0
    confirm: Annotated[
        Literal["never", "writes", "always"],
        Field(description="Which calls of models wait for a person: never, writes (or what may be one), always"),
    ] = "writes"
    approval_seconds: Annotated[
        float, Field(gt=0, description="Seconds after which a call that nobody decided about counts as rejected")
    ] = 86400.0
    conversation_days: Annotated[
        float, Field(gt=0, description="Days without a turn after which a conversation is forgotten")
    ] = 30.0
    drain_seconds: Annotated[
        float, Field(ge=0, description="Seconds that what is going on has left when the service is told to stop")
    ] = 10.0
    access_log: Annotated[bool, Field(description="A line in the log for each request and execution")] = True
    audit_code: Annotated[
        bool, Field(description="Keep the code of executions in the audit, and not only its sha256")
    ] = False
    log_level: Annotated[str, Field(description="debug, info, warning or error")] = "info"

    @field_validator("rate", "key_running", "guess_rate", mode="before")
    @classmethod
    def _off(cls, value: Any) -> Any:
        return None if value == "-" else value

    @field_validator("rate", "guess_rate")
    @classmethod
    def _is_rate(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value == cls.model_fields[str(info.field_name)].default:
            return value
        from limits import parse_many  # much, for commands of those who set no rate

        if value is not None and (len(parse_many(value)) != 1 or parse_many(value)[0].amount < 1):
            raise ValueError(f"{value!r} is not one rate, such as 100/second")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _is_origin(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in (one for one in value if not _ORIGIN.fullmatch(one)):
            raise ValueError(f"{origin!r} is no origin, such as https://a.example")
        return value

    @field_validator("model_services")
    @classmethod
    def _is_service(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for one in value:
            try:
                ServiceAddress.parse(one)
            except ValueError as error:
                raise ValueError(f"{one!r}: {error}") from error
        return value

    @field_validator("allowed_hosts", "pass_env", "cors_origins", "model_services", "mounts", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(p.strip() for p in value.split(",") if p.strip()) if isinstance(value, str) else value

    @field_validator("models", mode="before")
    @classmethod
    def _decode(cls, value: Any) -> Any:
        try:
            return json.loads(value) if isinstance(value, str) else value
        except (ValueError, RecursionError) as error:
            raise ValueError(f"it is not JSON: {error}") from error

    @field_validator("models")
    @classmethod
    def _known(cls, value: Mapping[str, Mapping[str, bool]]) -> Mapping[str, Mapping[str, bool]]:
        for name in (name for abilities in value.values() for name in abilities if name not in NAMES):
            raise ValueError(f"{name!r} is no ability; there are {', '.join(NAMES)}")
        return value

    @field_validator("home", "functions_dir", "cache", "kernelspecs_dir")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return value.expanduser().absolute() if value else None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.pool_max is not None and self.pool_max < self.pool_size:
            raise ValueError(f"pool_max is {self.pool_max}, less than pool_size, which is {self.pool_size}")
        return self

    @property
    def keep_seconds(self) -> float:
        """Seconds for which a conversation is kept after its last turn."""
        return self.conversation_days * 86400.0

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the service."""
        return self.host in LOOPBACK

    def open_home(self) -> Home:
        """The home folder, made if missing."""
        return Home.create(self.home, self.cache)

    def limits(self) -> PoolLimits:
        """The pool's share of the settings."""
        most = max(self.pool_size, POOL_MAX) if self.pool_size else 0
        return PoolLimits(
            spares=self.pool_size,
            max_spares=most if self.pool_max is None else self.pool_max,
            max_age=self.kernel_max_age,
            running=self.max_running,
            waiting=self.max_waiting,
            sessions=self.max_sessions,
            idle_seconds=self.session_idle,
            fork=self.fork,
        )

    def bounds(self) -> Bounds:
        """How much a kernel may take."""
        hardened = self.sandbox == "required"
        memory = self.kernel_memory or (2 * GIB if hardened else None)
        return Bounds(
            file_size=GIB if hardened else 16 * GIB,
            memory=memory,
            processes=self.kernel_pids,
            processors=self.kernel_cpus,
        )

    def exposure(self) -> Exposure:
        """What of the host kernels see, and what they never do: the service's own files, wherever they are."""
        secret = (Path(".env").absolute(),)
        checkout = Path(__file__).parents[1]
        program = [checkout] if (checkout / "aigbb_functions").is_dir() else [checkout / "server", checkout / "kernels"]
        environment = [Path(sys.prefix)] if sys.prefix != sys.base_prefix else []
        own = (self.home, self.cache, self.functions_dir, self.kernelspecs_dir, *program, *environment, *secret)
        told = (os.environ.get(name) for name in _CERTIFICATES)
        return Exposure(
            mounts=tuple(map(Mount.parse, self.mounts)),
            hidden=tuple(path for path in own if path is not None),
            kept=(Path(sys.base_prefix), Path(sys.base_exec_prefix), Path(find_uv_bin()).parent),
            secret=secret,
            certificates=tuple(Path(path) for path in told if path and Path(path).is_absolute()),
        )

    def check_bind(self) -> None:
        """Raises InsecureBind: another address than loopback needs a token that somebody chose."""
        if not self.is_loopback and self.token is None:
            raise InsecureBind(f"Refusing to listen on {self.host}: no token is set.")

    def require_token(self, home: Home) -> str:
        """The configured token, else the home's own, generated at first use."""
        if self.token is not None:
            return self.token.get_secret_value()
        if not home.token.exists() or not home.token.read_text().strip():
            write_atomically(home.token, secrets.token_urlsafe(32) + "\n", mode=0o600)
        return home.token.read_text().strip()

    def secrets_keys(self) -> str | None:
        """The configured keys that secrets are encrypted with."""
        return None if self.secrets_key is None else self.secrets_key.get_secret_value()

    def find_token(self) -> str | None:
        """What a client on this machine can find: the setting, or the home's token."""
        if self.token is not None:
            return self.token.get_secret_value()
        path = self.home / "token"
        return path.read_text().strip() or None if os.access(path, os.R_OK) else None

    def model_service(self) -> ModelService | None:
        """Where models are, by the variables that the `openai` client reads; None if there are none."""
        if os.environ.get("AZURE_OPENAI_ENDPOINT"):
            return ModelService(azure=True, has_key=True)
        key = bool(os.environ.get("OPENAI_API_KEY"))
        return ModelService(azure=False, has_key=key) if key or os.environ.get("OPENAI_BASE_URL") else None

    def model_secrets(self) -> tuple[str, ...]:
        """What the `openai` client shows to the service that has the models, and nobody else may see."""
        names = ("OPENAI_API_KEY", "AZURE_OPENAI_API_KEY", "AZURE_OPENAI_AD_TOKEN")
        return tuple(os.environ[name] for name in names if os.environ.get(name))

    def uv_environment(self) -> Mapping[str, str]:
        """The installer's environment: the operator's UV_* settings, and what it takes to reach an index."""
        return {k: v for k, v in os.environ.items() if k in _UV_NAMES or k.startswith("UV_")}

    def kernel_environment(self) -> Mapping[str, str]:
        """What of the service's environment kernels may see."""
        names = (*_KERNEL_NAMES, *self.pass_env)
        return {name: os.environ[name] for name in names if name in os.environ}


def own_key() -> str | None:
    """The key for a model service that whoever runs a command has, if any."""
    return os.environ.get("OPENAI_API_KEY") or None


@dataclass(frozen=True)
class Traces:
    """Whether the standard environment of OpenTelemetry wants traces; why they can't be had, if so."""

    on: bool
    problem: str = ""


def traces() -> Traces:
    """As OTEL_* says: what is sent where is read by OpenTelemetry itself."""
    told = {name: value.strip() for name, value in os.environ.items() if name.startswith("OTEL_")}
    exporter = told.get("OTEL_TRACES_EXPORTER", "").lower()
    places = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    wanted = bool(exporter) or any(told.get(name) for name in places)
    if not wanted or exporter == "none" or told.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return Traces(on=False)
    if exporter not in ("", "otlp"):
        return Traces(False, f"OTEL_TRACES_EXPORTER is {exporter!r}; only otlp and none are known here.")
    name = "OTEL_EXPORTER_OTLP_PROTOCOL"
    protocol = told.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or told.get(name) or "http/protobuf"
    if protocol != "http/protobuf":
        return Traces(False, f"{name} is {protocol!r}; only http/protobuf is known here.")
    return Traces(on=True)


def unknown() -> list[str]:
    """A sentence for each AIGBB_* variable that is no setting: it is probably misspelt."""
    known = {f"AIGBB_{name.upper()}" for name in Settings.model_fields} | {"AIGBB_KERNEL", "AIGBB_GENERATION"}
    found = []
    for name in sorted(n for n in os.environ if n.startswith("AIGBB_") and n.upper() not in known):
        near = difflib.get_close_matches(name.upper(), known, n=1)
        found.append(f"{name} is no setting{f'; did you mean {near[0]}?' if near else '.'}")
    return found


def rows() -> list[tuple[str, str, str]]:
    """Every setting as (variable, default, help): the README's table."""
    defaults = {
        "home": ".aigbb/ in the checkout",
        "functions_dir": "aigbb_functions/ in the checkout",
        "kernelspecs_dir": "the user's Jupyter folder",
    }
    return [
        (f"AIGBB_{name.upper()}", defaults.get(name, _show(field.default)), field.description or "")
        for name, field in Settings.model_fields.items()
    ]


def _show(value: object) -> str:
    return "-" if value in (None, (), {}) else f"{value:g}" if isinstance(value, float) else str(value)
