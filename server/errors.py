"""The error tree, the doors' half; the engine's half and the root are in `kernels.errors`, limits in `server.refusals`.

AigbbError
├── InvalidJson          400   ├── InvalidName            422   ├── FunctionNotFound     404
├── ForeignHost          400   ├── InvalidEnv             422   ├── UnknownVersion       404
├── KeyInUrl             400   ├── InvalidTag             422   ├── RouteNotFound        404
├── Unauthorized         401   ├── UnknownKey             404   ├── Forbidden            403
├── MethodNotAllowed     405   ├── InvalidBound           422   ├── NameClash            409
├── StaleVersion         412   ├── InvalidSchema          422   ├── WouldBreak           409
├── BodyTooLarge         413   ├── MissingEnv             422   ├── VersionUnavailable   409
├── WrongContentType     415   ├── InvalidArguments       422   ├── InsecureBind
├── InvalidRequest       422   ├── MissingBound           422   ├── HomeInUse, HomeUnusable, HomeNotEmpty
├── IdempotencyKeyReused 422   └── SourceRefused          422   ├── NewerHome, StoreDamaged, InvalidBackup, PortInUse
        with SourceTooLarge 413, SourceUnparsable, SyntaxRefused, NoSuchDefinition, UnsupportedSignature; Unreachable
├── ConversationNotFound 404   ├── UnknownApproval        404   ├── LimitReached         422
├── ConversationBusy     409   ├── ApprovalSettled        409   ├── ApprovalVoid         409
├── ModelNotConfigured   503   ├── ModelFailed            502   ├── ModelTimedOut        504
├── UnknownModel         404       └── ToolsRefused       502   ├── ExecutionNotFound    404
├── UnknownResult        404   ├── UnknownSecret        404   ├── InvalidSecret        422
└── SecretInUse          409   ├── MissingSecret        422   └── SecretsLocked        503
"""

from __future__ import annotations

from kernels.errors import AigbbError

__all__ = ["AigbbError"]


class InvalidJson(AigbbError):
    """The body is not JSON."""

    code, status = "invalid_json", 400
    hint = "Send one JSON object, UTF-8."


class ForeignHost(AigbbError):
    """The Host header names somebody else: a sign of DNS rebinding."""

    code, status = "foreign_host", 400
    hint = "Call the service by the address it listens on, or add the name to AIGBB_ALLOWED_HOSTS."


class Unauthorized(AigbbError):
    """No token, or a wrong one."""

    code, status = "unauthorized", 401
    hint = "Send `Authorization: Bearer KEY`: AIGBB_TOKEN, the file `token` of the home, or one of `aigbb keys create`."


class Forbidden(AigbbError):
    """The key is good, but not for this."""

    code, status = "forbidden", 403
    hint = "Use a key with one of `scopes`."


class KeyInUrl(AigbbError):
    """A key in a URL, which logs and histories keep."""

    code, status = "key_in_url", 400
    hint = "Send it as `Authorization: Bearer TOKEN`, and make a new one: this one may have been seen."


class UnknownKey(AigbbError):
    """There is no such key, or not any more."""

    code, status = "unknown_key", 404
    hint = "GET /keys lists them."


class RouteNotFound(AigbbError):
    """No such path."""

    code, status = "not_found", 404
    hint = "The paths are listed at /docs and in /openapi.json."


class MethodNotAllowed(AigbbError):
    """The path exists, the method does not."""

    code, status = "method_not_allowed", 405
    hint = "See the Allow header, or /docs."


class BodyTooLarge(AigbbError):
    """The body is over the cap."""

    code, status = "body_too_large", 413
    hint = "Send less, or raise AIGBB_MAX_BODY."


class WrongContentType(AigbbError):
    """The body is not declared as JSON."""

    code, status = "wrong_content_type", 415
    hint = "Add the header `Content-Type: application/json`."


class InvalidRequest(AigbbError):
    """A field is missing, unknown, or of the wrong type."""

    code, status = "invalid_request", 422
    hint = "See `errors`: one entry a field."


class InvalidName(AigbbError):
    """The function's name cannot be one."""

    code, status = "invalid_name", 422
    hint = "Use a letter first, then letters, digits or underscores, at most 64, and no name that Python has."


class InvalidEnv(AigbbError):
    """A variable's name or value cannot be one."""

    code, status = "invalid_env", 422
    hint = "Use names such as API_KEY and text values; names that steer processes are reserved."


class SourceRefused(AigbbError):
    """The source is not one function that we can serve."""

    status = 422


class SourceTooLarge(AigbbError):
    """The source is over its cap."""

    code, status = "source_too_large", 413
    hint = "Keep a function's file under 256 KiB; put data into a package or fetch it."


class SourceUnparsable(SourceRefused):
    """Python's parser gave up on the source."""

    code = "source_unparsable"
    hint = "Remove NUL bytes, extreme nesting and numbers of thousands of digits."


class SyntaxRefused(SourceRefused):
    """The source is not Python."""

    code = "syntax_error"
    hint = "Fix the line named in `location`."


class NoSuchDefinition(SourceRefused):
    """The source does not define the one function."""

    code = "function_not_found"
    hint = "The source must define a function of exactly that name at its top level."


class UnsupportedSignature(SourceRefused):
    """Parameters that cannot be given by name in JSON."""

    code = "unsupported_signature"
    hint = (
        "Use named parameters only, no *args, **kwargs or positional-only ones; or say in `input_schema` what to send."
    )


class InvalidTag(AigbbError):
    """A tag that cannot be one."""

    code, status = "invalid_tag", 422
    hint = "Use up to 20 tags of letters, digits, dots, underscores and hyphens."


class InvalidBound(AigbbError):
    """A name in `bound` is no parameter."""

    code, status = "invalid_bound", 422
    hint = "List names of parameters only, as they are written in the function."


class MissingEnv(AigbbError):
    """A version's variables have no values any more."""

    code, status = "missing_env", 422
    hint = "Send the values in `env`, by name."


class InvalidSecret(AigbbError):
    """A secret's name or value cannot be one, or a grant of it."""

    code, status = "invalid_secret", 422
    hint = "Use names such as API_KEY, and values of 6 characters or more: shorter ones could not be scrubbed."


class UnknownSecret(AigbbError):
    """There is no such secret."""

    code, status = "unknown_secret", 404
    hint = "GET /secrets lists the names that there are."


class MissingSecret(AigbbError):
    """A function is granted a secret that is not set."""

    code, status = "missing_secret", 422
    hint = "Set it first: PUT /secrets/{name}, or `aigbb secrets set NAME`."


class SecretInUse(AigbbError):
    """A secret is granted to active functions."""

    code, status = "secret_in_use", 409
    hint = "Nothing was deleted. Register them without it first, or send force=true: their calls are refused then."


class SecretsLocked(AigbbError):
    """What is stored cannot be decrypted with the key that there is."""

    code, status = "secrets_locked", 503
    hint = (
        "Give the service the key that they were set with, in AIGBB_SECRETS_KEY or in the file `secrets.key` of the "
        "home, and start it again. If it is lost, delete the secrets and set them anew."
    )


class UnknownVersion(AigbbError):
    """The function never had such a version."""

    code, status = "unknown_version", 404
    hint = "GET /functions/{name}/versions lists what there is."


class VersionUnavailable(AigbbError):
    """No environment has the packages of a pinned version."""

    code, status = "version_unavailable", 409
    hint = "Activate that version first: its packages are installed then."


class StaleVersion(AigbbError):
    """The function changed since the caller last saw it."""

    code, status = "stale_version", 412
    hint = "GET the function, look at what changed, and send its `digest` as if_match."


class IdempotencyKeyReused(AigbbError):
    """The same Idempotency-Key came with another body."""

    code, status = "idempotency_key_reused", 422
    hint = "Make a new key for a new request; a key stands for one body for 24 hours."


class InvalidArguments(AigbbError):
    """The arguments do not fit the function, which has not run."""

    code, status = "invalid_arguments", 422
    hint = "See `errors`: one entry a parameter. `signature` says what fits."


class MissingBound(AigbbError):
    """A function needs a bound argument that the request does not hold."""

    code, status = "missing_bound", 422
    hint = "Send the value in `bound`: models are not asked for it."


class FunctionNotFound(AigbbError):
    """No function of that name."""

    code, status = "unknown_function", 404
    hint = "GET /functions lists what is registered."


class NameClash(AigbbError):
    """Another function has this name but for upper and lower case."""

    code, status = "name_clash", 409
    hint = "Names must differ in more than case. Use the other name, or delete it first."


class WouldBreak(AigbbError):
    """Other functions would not import any more."""

    code, status = "would_break", 409
    hint = "Nothing was changed. Loosen the packages so that the functions listed still import."


class UnknownResult(AigbbError):
    """There is no such picture, or whole of a result."""

    code, status = "unknown_result", 404
    hint = "They are kept for a while, the oldest go first: call the function again."


class ExecutionNotFound(AigbbError):
    """There is no such execution, or it is not kept any more."""

    code, status = "execution_not_found", 404
    hint = (
        "GET /executions lists those that run, and those asked for with `Prefer: respond-async` that have ended; these "
        "are kept for AIGBB_EXECUTION_SECONDS, and the oldest go first."
    )


class UnknownModel(AigbbError):
    """There is no such model for OpenAI's clients."""

    code, status = "unknown_model", 404
    hint = "GET /v1/models lists them: aigbb for all functions, aigbb:TAG for those with a tag."


class LimitReached(AigbbError):
    """A turn of chat reached a limit, and was to end with an error then."""

    code, status = "limit_reached", 422
    hint = "Allow more in `limits`, or leave out on_limit to get the best answer so far. `messages` can be sent again."


class ConversationNotFound(AigbbError):
    """No conversation of that id is kept."""

    code, status = "unknown_conversation", 404
    hint = "GET /conversations lists them. POST /chat with a `conversation` of your own choice begins one."


class ConversationBusy(AigbbError):
    """A turn of this conversation is going on."""

    code, status = "conversation_busy", 409
    hint = "Wait until it is over, or use another conversation."


class UnknownApproval(AigbbError):
    """Nothing of that id waits, or waited."""

    code, status = "unknown_approval", 404
    hint = "GET /approvals lists what waits for a decision."


class ApprovalSettled(AigbbError):
    """Somebody has decided already, nobody did in time, or the conversation went on without."""

    code, status = "approval_settled", 409
    hint = "Nothing was run. GET /approvals lists what still waits; a new message lets the conversation go on."


class ApprovalVoid(AigbbError):
    """A decision about something else than what would be run: the arguments, or the function, are not the same."""

    code, status = "approval_void", 409
    hint = "Look at GET /approvals/{id} again; what cannot be approved any more can be rejected."


class ModelNotConfigured(AigbbError):
    """No model, or no service that has one, is known."""

    code, status = "model_not_configured", 503
    hint = (
        "Set AIGBB_MODEL, and OPENAI_API_KEY or OPENAI_BASE_URL (or AZURE_OPENAI_ENDPOINT, AZURE_OPENAI_API_KEY and "
        "OPENAI_API_VERSION), and start the service again. Everything but chat works without."
    )


class ModelFailed(AigbbError):
    """The model's service refused, broke off or could not be reached."""

    code, status = "model_failed", 502
    hint = "See what its service says; check the key, the address and the model's name. `messages` can be sent again."


class ToolsRefused(ModelFailed):
    """The model takes no tools, or not in this mode."""

    code = "tools_refused"
    hint = "Send the request again: the service has learnt it. With a `mode` of your own, choose another one."


class ModelTimedOut(AigbbError):
    """The model took too long."""

    code, status = "model_timed_out", 504
    hint = "Send the request again, or raise AIGBB_MODEL_TIMEOUT."


class InsecureBind(AigbbError):
    """An open address without a chosen token."""

    code = "insecure_bind"
    hint = "Set AIGBB_TOKEN to a long random text, or listen on 127.0.0.1."


class HomeInUse(AigbbError):
    """Another service runs on this home."""

    code = "home_in_use"
    hint = "Stop the other one, or choose another folder with AIGBB_HOME."


class HomeUnusable(AigbbError):
    """The home folder, or something in it, cannot be opened."""

    code = "home_unusable"
    hint = "Look at that path: whose it is, what its permissions are, and that no other program has it open."


class NewerHome(AigbbError):
    """The home was written by a newer version of the service."""

    code = "newer_home"
    hint = "Start the newer version, or choose another folder with AIGBB_HOME; nothing was changed."


class StoreDamaged(AigbbError):
    """The registry's file is damaged."""

    code = "store_damaged"
    hint = "Stop the service and start it again: that sets the file aside. If there is a backup: `aigbb restore FILE`."


class HomeNotEmpty(AigbbError):
    """A restore would replace what a home holds (command line only)."""

    code = "home_not_empty"
    hint = "Add --replace: what is there now is kept, in a folder of the home. Or choose another one with AIGBB_HOME."


class InvalidBackup(AigbbError):
    """The file is no backup, or not whole (command line only)."""

    code = "invalid_backup"
    hint = "Nothing was changed. Take another backup."


class PortInUse(AigbbError):
    """Another program listens there."""

    code = "port_in_use"
    hint = "Stop it, or choose another port with --port."


class Unreachable(AigbbError):
    """No service answers (command line only)."""

    code = "unreachable"
    hint = "Start it with `make serve`, or point --url at it."


class InvalidSchema(AigbbError):
    """A JSON Schema of arguments that cannot be used."""

    code, status = "invalid_schema", 422
    hint = "Give a JSON Schema (Draft 2020-12) of type object, one property a parameter; `path` says where it fails."
