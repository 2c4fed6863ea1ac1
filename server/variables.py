"""Names and values of variables: those that functions may set, those that are reserved, and values that conflict."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from kernels.errors import AigbbError
from kernels.messages import clean
from server.errors import InvalidEnv

MAX_VALUE = 32 * 1024

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
# What interpreters, loaders, shells, TLS and proxies of every process read. Tools read some in either case.
_RESERVED = re.compile(
    r"""
    (PYTHON | _?LD_ | DYLD_ | MALLOC_ | GLIBC_ | JPY_ | JUPYTER | IPYTHON | AIGBB_ | UV_ | PIP_ | CONDA_)\w*
    | PATH | HOME | USER | LOGNAME | SHELL | PWD | OLDPWD | TMPDIR | TMP | TEMP | TEMPDIR | XDG_\w+ | VIRTUAL_ENV
    | (HTTPS? | ALL | FTP | NO | SOCKS | WS | WSS)_PROXY | PROXY_\w+ | PROXY
    | SSL_CERT_\w+ | SSLKEYLOGFILE | OPENSSL_\w+ | REQUESTS_CA_BUNDLE | CURL_\w+ | WGETRC | NETRC | KRB5\w*
    | GCONV_PATH | GETCONF_DIR | LOCPATH | NLSPATH | TZDIR | HOSTALIASES | LOCALDOMAIN | RES_OPTIONS | RESOLV_\w+
    | ENV | BASH\w* | SHELLOPTS | IFS | CDPATH | PS[0-4] | PROMPT_COMMAND | TERMINFO\w* | TERMCAP
    | PERL(5\w+ | LIB | IO) | RUBY(OPT | LIB) | NODE_(OPTIONS | PATH | EXTRA_CA_CERTS)
    | (_JAVA | JAVA_TOOL | JDK_JAVA)_OPTIONS | CLASSPATH
    | GIT_\w+ | SSH_\w+ | EDITOR | VISUAL | PAGER | BROWSER | LESS(OPEN | CLOSE)
    | MPLBACKEND | MPLCONFIGDIR | MATPLOTLIBRC | NUMBA_CACHE_\w+ | CUDA_INJECTION\w+ | CUDA_CACHE_PATH
    """,
    re.VERBOSE,
)


class VariableConflict(AigbbError):
    """Another function has a variable of this name with another value."""

    code, status = "variable_conflict", 409
    hint = "Use another name, or send all functions that use it, with the new value, in one POST /register/batch."


def is_reserved(name: str) -> bool:
    """Whether a name steers processes, so that no function may set it for all kernels."""
    return _RESERVED.fullmatch(name.upper()) is not None


def check_env(env: Mapping[str, str]) -> None:
    """Raises InvalidEnv for names that are none, names that steer processes, and values that are no text."""
    for name, value in env.items():
        if not _VARIABLE.fullmatch(name):
            raise InvalidEnv(f"{name[:80]!r} cannot be a variable's name.", name=name[:80])
        if is_reserved(name):
            hint = "Use another name. For all kernels, the operator can set it with AIGBB_PASS_ENV."
            raise InvalidEnv(f"The variable {name!r} is reserved.", hint=hint, name=name)
        if "\0" in value or len(value) > MAX_VALUE or clean(value) != value:
            raise InvalidEnv(f"The value of {name!r} holds a NUL, a lone surrogate, or is over 32 KiB.", name=name)


def merged(each: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Return the variables of all functions of a request. Raises VariableConflict where two have different values."""
    found: dict[str, str] = {}
    for env in each:
        for name, value in env.items():
            if found.setdefault(name, value) != value:
                hint = "All functions share the variable: send one value."
                raise VariableConflict(f"The request has two values for the variable {name!r}.", hint=hint, name=name)
    return found


def check_conflicts(env: Mapping[str, str], there: Mapping[str, str], others: Mapping[str, Collection[str]]) -> None:
    """Raise VariableConflict for another value of a variable that functions use which the change leaves as they are.

    there are the values of variables now, others the names of variables by function.
    """
    for name, value in env.items():
        if name in there and there[name] != value and (users := [f for f, used in others.items() if name in used]):
            listed = ", ".join(users)
            raise VariableConflict(
                f"The variable {name!r} has another value, which {listed} use{'s' if len(users) == 1 else ''}.",
                name=name,
                functions=users,
            )
