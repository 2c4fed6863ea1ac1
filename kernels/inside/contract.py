"""How one function is called with JSON: the schema of its parameters, and arguments that are checked before it runs.

Nothing here runs the function. pydantic sees a stub with the same parameters, each given by name.
"""

import collections.abc
import functools
import inspect
import json
import sys
import types
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from inspect import Parameter, Signature
from typing import Annotated, Any, Literal, Union

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue
from pydantic_core import ArgsKwargs, PydanticSerializationError, core_schema

from .arguments import Place, Wrong, at, container, entries, located, may_be_left_out, replaced
from .forms import ordered

MAX_SIGNATURE = 2000
GENERATED = "\0generated"


class Unfit(TypeError):
    """A parameter that JSON cannot fill. unresolved is the name that its annotation uses and nothing defines."""

    def __init__(self, parameter: str | None, annotation: str | None, error: BaseException) -> None:
        text = str(error).partition("\n")[0][:300]
        super().__init__(f"{type(error).__name__}: {text}")
        self.parameter = parameter
        self.annotation = annotation
        self.unresolved: str | None = error.name if isinstance(error, NameError) else None


class WrongArguments(TypeError):
    """Arguments that the function does not take.

    errors has one entry for each wrong parameter: {"parameter", "path", "message", "type"} and, where a name
    is near, "suggestion". path is inside the parameter. No entry holds what was sent.
    """

    def __init__(self, errors: list[dict[str, str]]) -> None:
        super().__init__("; ".join(f"{e['parameter']}: {e['message']}" for e in errors)[:1000])
        self.errors = errors


class Contract:
    """How a function is called.

    written lists the parameters as the source has them: {"name", "optional", "computed_default"}. Where the
    function as imported takes other ones, `hidden` is true; if it takes any keyword, the written names count.
    With declared, the author gives the schema: a parameter without JSON form is then taken as it comes.
    Raises Unfit, also where the function has no signature.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        written: Sequence[Mapping[str, Any]] | None = None,
        *,
        declared: bool = False,
    ) -> None:
        self.function = function
        try:
            self.signature = inspect.signature(function)
        except (TypeError, ValueError) as error:
            raise Unfit(None, None, error) from error
        names = globals_of(function)
        listed = [] if written is None else list(written)
        self.hidden = written is not None and is_hidden(self.signature, listed)
        self._parameters = {p.name: p for p in actual(self.signature, listed if self.hidden else None)}
        self._types = {p.name: accepted(p, names, declared) for p in self._parameters.values()}
        self._returns = self.signature.return_annotation, names
        computed = {w["name"] for w in listed if w.get("computed_default")}
        self._adapter = self._adapt(computed)

    def shown(self, name: str) -> str:
        """The signature under a name, as text."""
        try:
            return f"{name}{self.signature}"[:MAX_SIGNATURE]
        except Exception:  # a default's own __repr__
            return f"{name}({', '.join(self._parameters)})"[:MAX_SIGNATURE]

    def parameters(self) -> dict[str, Any]:
        """The JSON Schema of the arguments as one object. Raises Unfit."""
        return self._schema

    def returns(self) -> dict[str, Any]:
        """The JSON Schema of the result; empty where the function does not say, or JSON cannot."""
        annotation, names = self._returns
        if annotation is Signature.empty:
            return {}
        try:
            return schema_of(described(resolved(annotation, names)), "serialization")
        except Exception:
            return {}

    def bind(self, arguments: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What to call the function with. Parameters that are not given keep the function's own defaults.

        Each key is a parameter's name. The name of `*args` holds a list; keys that are no parameter's name go to
        `**kwargs` as they are. Raises WrongArguments, and what validators that the author wrote may raise.
        """
        given, values = self._checked(dict(arguments))
        values = {n: v for n, v in values.items() if n in given or isinstance(self._parameters[n].default, FieldInfo)}
        in_order = list(self._parameters.values())
        spread = [v for p in in_order if p.kind is Parameter.VAR_POSITIONAL for v in values.pop(p.name, ())]
        placed = [p for p in in_order if p.kind is Parameter.POSITIONAL_ONLY]
        if spread:
            placed = [p for p in in_order if p.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)]
        while placed and not spread and placed[-1].name not in values:
            placed.pop()
        args = [values.pop(p.name, p.default) for p in placed]
        return (*args, *spread), values

    @functools.cached_property
    def _schema(self) -> dict[str, Any]:
        try:
            return schema_of(self._adapter)
        except Exception as error:
            raise self._culprit(error) from error

    def _adapt(self, computed: set[str]) -> TypeAdapter[dict[str, Any]]:
        def stub(**arguments: Any) -> Any:
            return arguments

        parameters = [as_keyword(p, self._types[p.name], p.name in computed) for p in self._parameters.values()]
        stub.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        stub.__annotations__ = {p.name: p.annotation for p in parameters}
        stub.__module__ = getattr(self.function, "__module__", None) or __name__
        stub.__name__ = stub.__qualname__ = getattr(self.function, "__name__", None) or "function"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return TypeAdapter(typing.cast(Any, stub))
        except Exception as error:
            raise self._culprit(error) from error

    def _culprit(self, error: Exception) -> Unfit:
        """The first parameter that has no schema by itself."""
        for parameter in self._parameters.values():
            try:
                schema_of(self._types[parameter.name])
            except Exception as own:
                return Unfit(parameter.name, str(parameter.annotation), own)
        return Unfit(None, None, error)

    def _checked(self, arguments: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The arguments as they were meant, and their values. Only what is wrong is given a second chance."""
        tried: set[Place] = set()
        while True:
            try:
                return arguments, self._validate(arguments)
            except ValidationError as error:
                wrong = located(error, arguments)
            repairs = {place: new for place, new in self._repairs(arguments, wrong) if place not in tried}
            if not repairs:
                raise WrongArguments(entries(wrong, list(self._parameters)))
            tried |= repairs.keys()
            arguments = self._repaired(arguments, repairs)

    def _validate(self, arguments: dict[str, Any]) -> dict[str, Any]:
        try:
            return self._adapter.validate_json(json.dumps(arguments))
        except ValidationError as error:
            if error.errors(include_input=False, include_context=False)[0]["loc"]:
                raise
        except (TypeError, ValueError, RecursionError):
            pass
        # What JSON's text cannot carry, such as a lone surrogate, is found wrong where it is, or passes.
        return self._adapter.validate_python(ArgsKwargs((), arguments))

    def _repairs(self, arguments: Any, wrong: Wrong) -> Iterator[tuple[Place, list[Any]]]:
        """Another value, in a list, for each wrong one that may have been meant otherwise; an empty list leaves it out.

        Models write an object as JSON text, and null for what they do not want to give.
        """
        for place, _ in wrong:
            value = at(arguments, place)
            if isinstance(value, str) and (parsed := container(value)) is not None:
                yield place, [parsed]
            elif value is None and place and may_be_left_out(self._schema, place):
                yield place, []

    def _repaired(self, arguments: dict[str, Any], repairs: Mapping[Place, list[Any]]) -> dict[str, Any]:
        """The arguments with those repairs that help: a value that stays wrong is reported as it was sent."""
        attempt: dict[str, Any] = replaced(arguments, repairs)
        try:
            self._validate(attempt)
        except ValidationError as error:
            still = {place for place, _ in located(error, attempt)}
            attempt = replaced(arguments, {place: new for place, new in repairs.items() if place not in still})
        return attempt


# -- from the signature to pydantic


class _Unset:
    """The default of a parameter whose own default is not part of the contract. No JSON form, so never shown."""


UNSET = _Unset()


def actual(signature: Signature, written: Sequence[Mapping[str, Any]] | None) -> Iterator[Parameter]:
    """The parameters that a caller may give: with written ones, these too where any keyword is taken."""
    own = signature.parameters
    if written is None or all(p.kind is not Parameter.VAR_KEYWORD for p in own.values()):
        yield from own.values()
        return
    named = {n: p for n, p in own.items() if p.kind not in VARIADIC}
    yield from named.values()
    for parameter in written:
        if parameter["name"] not in named and not parameter.get("kind", "").startswith("*"):
            default = UNSET if parameter.get("optional") else Parameter.empty
            yield Parameter(parameter["name"], Parameter.KEYWORD_ONLY, default=default)


VARIADIC = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


def is_hidden(signature: Signature, written: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the function as imported takes other parameters than its source says."""
    said = {(p["name"], p.get("kind", "").startswith("*")) for p in written}
    return said != {(p.name, p.kind in VARIADIC) for p in signature.parameters.values()}


def as_keyword(parameter: Parameter, annotation: Any, computed: bool) -> Parameter:
    """The parameter in the stub, where all are given by name. A computed default is not shown."""
    match parameter.kind:
        case Parameter.VAR_KEYWORD:
            return parameter.replace(annotation=annotation)
        case Parameter.VAR_POSITIONAL:
            return Parameter(parameter.name, Parameter.KEYWORD_ONLY, annotation=list[annotation], default=UNSET)
    default = parameter.default
    if computed and default is not Parameter.empty and not isinstance(default, FieldInfo):
        default = UNSET
    return Parameter(parameter.name, Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def accepted(parameter: Parameter, names: dict[str, Any], declared: bool) -> Any:
    """The type that pydantic checks. Raises Unfit."""
    if parameter.annotation is Parameter.empty:
        return Any
    try:
        annotation = described(eager(resolved(parameter.annotation, names)))
        if declared and typing.get_origin(annotation) is not typing.Unpack:  # that is no type by itself
            schema_of(annotation)
    except Exception as error:
        if declared:
            return Any
        raise Unfit(parameter.name, str(parameter.annotation), error) from error
    return annotation


def globals_of(function: Any) -> dict[str, Any]:
    """The names that the annotations of a callable are read in."""
    for _ in range(10):
        function = inspect.unwrap(function)
        if isinstance(function, functools.partial):
            function = function.func
        elif isinstance(names := getattr(function, "__globals__", None), dict):
            return names
        else:
            function = inspect.getattr_static(type(function), "__call__", None)
    return vars(sys.modules["builtins"])


def resolved(annotation: Any, names: dict[str, Any]) -> Any:
    """An annotation whose parts that are text have been read. Raises NameError, or what reading it raises."""
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    return typing.get_type_hints(holder, names, {}, include_extras=True)["it"]


def eager(annotation: Any) -> Any:
    """The annotation with list for Iterable, which pydantic would check only while the function runs."""
    origin, args = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if origin in (collections.abc.Generator, collections.abc.AsyncGenerator):
        raise TypeError("a generator cannot be sent as JSON")
    if origin is collections.abc.Iterable:
        return list[eager(args[0])] if args else list[Any]  # type: ignore[misc]
    if origin in (Literal, collections.abc.Callable):
        return annotation
    inner = tuple(eager(arg) for arg in args)
    if all(new is old for new, old in zip(inner, args, strict=True)):
        return annotation
    if origin is Annotated:
        return Annotated[inner]
    return Union[inner] if origin in (Union, types.UnionType) else origin[inner]  # noqa: UP007


def described(annotation: Any) -> Any:
    """The annotation with the text that `Annotated` carries as its description, unless a Field has one."""
    if typing.get_origin(annotation) is not Annotated:
        return annotation
    metadata = annotation.__metadata__
    if any(isinstance(m, FieldInfo) and m.description for m in metadata):
        return annotation
    texts = (m if isinstance(m, str) else getattr(m, "documentation", None) for m in metadata)
    text = next((t for t in texts if isinstance(t, str)), None)
    return annotation if text is None else Annotated[annotation, Field(description=text)]


class Plain(GenerateJsonSchema):
    """Schemas without the titles that only repeat a name, and without what JSON cannot carry."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Never: the name says it. A title that the author gives does not come this way."""
        return False

    def get_title_from_name(self, name: str) -> str:
        """Older releases of pydantic ask for a title all the same: a mark, taken out at the end."""
        return GENERATED

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        """Of a pydantic model."""
        return untitled(super().model_schema(schema), schema["cls"])

    def dataclass_schema(self, schema: core_schema.DataclassSchema) -> JsonSchemaValue:
        """Of a dataclass."""
        return untitled(super().dataclass_schema(schema), schema["cls"])

    def typed_dict_schema(self, schema: core_schema.TypedDictSchema) -> JsonSchemaValue:
        """Of a TypedDict."""
        return untitled(super().typed_dict_schema(schema), schema.get("cls"))

    def enum_schema(self, schema: core_schema.EnumSchema) -> JsonSchemaValue:
        """Of an Enum. Its title is added later."""
        self.enums.add(schema["cls"].__name__)
        return super().enum_schema(schema)

    def generate(self, schema: Any, mode: JsonSchemaMode = "validation") -> JsonSchemaValue:
        """The whole schema."""
        self.enums: set[str] = set()
        made = super().generate(schema, mode)
        for definition in (made, *made.get("$defs", {}).values()):
            if "enum" in definition and definition.get("title") in self.enums:
                definition.pop("title")
        unmark(made)
        return made

    def is_subclass_schema(self, schema: core_schema.IsSubclassSchema) -> JsonSchemaValue:
        """A class cannot be sent."""
        return self.handle_invalid_for_json_schema(schema, "a class")

    def generator_schema(self, schema: core_schema.GeneratorSchema) -> JsonSchemaValue:
        """An iterator that a function returns is not consumed, so nothing is said of its items."""
        if self.mode == "serialization":
            return self.handle_invalid_for_json_schema(schema, "an iterator")
        return super().generator_schema(schema)

    def encode_default(self, dft: Any) -> Any:
        """A default's JSON form, the same in each process. Raises PydanticSerializationError if it has none."""
        if dft is UNSET:
            raise PydanticSerializationError("the default is not part of the contract")
        try:
            encoded = super().encode_default(ordered(dft) if isinstance(dft, set | frozenset) else dft)
            json.dumps(encoded, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise PydanticSerializationError("the default has no JSON form") from error
        return encoded


def unmark(node: Any) -> None:
    """Take out the generated titles, in place."""
    if isinstance(node, dict):
        if node.get("title") == GENERATED:
            del node["title"]
        node = list(node.values())
    if isinstance(node, list):
        for inner in node:
            unmark(inner)


def untitled(schema: JsonSchemaValue, cls: Any) -> JsonSchemaValue:
    """The schema less a title that is only the name of its class."""
    if schema.get("title") == getattr(cls, "__name__", None):
        schema.pop("title", None)
    return schema


def schema_of(annotation: Any, mode: JsonSchemaMode = "validation") -> dict[str, Any]:
    """The JSON Schema of a type. Raises what pydantic, or a type's own hooks, raise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapter = annotation if isinstance(annotation, TypeAdapter) else TypeAdapter(annotation)
        schema: dict[str, Any] = adapter.json_schema(schema_generator=Plain, mode=mode)
    json.dumps(schema)
    return schema
