"""What in a source may change something, or is not known not to: a source without any of it only reads.

Every name, attribute and call is held against the lists of `server.allowlist`; every change must be one of a value
that the same call has made (`server.origins`).
"""

from __future__ import annotations

import ast
import builtins
import string
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from server import allowlist as lists
from server.blocks import COMPREHENSIONS, Block, Blocks, BlocksDiffer, Function, TooInvolved, own_attributes
from server.origins import OUTSIDE, Values, canonical, is_module

NODES = (
    ast.Module, ast.Expression, ast.expr_context, ast.boolop, ast.operator, ast.unaryop, ast.cmpop, ast.keyword,
    ast.alias, ast.arg, ast.arguments, ast.comprehension, ast.withitem, ast.match_case, ast.pattern,
    ast.excepthandler, ast.Slice, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Return, ast.Delete,
    ast.Assign, ast.AugAssign, ast.AnnAssign, ast.For, ast.AsyncFor, ast.While, ast.If, ast.With, ast.AsyncWith,
    ast.Match, ast.Raise, ast.Try, ast.TryStar, ast.Assert, ast.Import, ast.ImportFrom, ast.Expr, ast.Pass, ast.Break,
    ast.Continue, ast.BoolOp, ast.NamedExpr, ast.BinOp, ast.UnaryOp, ast.Lambda, ast.IfExp, ast.Dict, ast.Set,
    ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.Await, ast.Yield, ast.YieldFrom, ast.Compare,
    ast.Call, ast.FormattedValue, ast.JoinedStr, ast.Constant, ast.Attribute, ast.Subscript, ast.Starred, ast.Name,
    ast.List, ast.Tuple,
)  # fmt: skip
KNOWN = frozenset(kind for kind in vars(ast).values() if isinstance(kind, type) and issubclass(kind, NODES))
BUILTIN_NAMES = frozenset(dir(builtins))


def changes(source: str, tree: ast.Module) -> list[dict[str, Any]]:
    """Return the line and the name of each part that is not certain to change nothing; one entry per name."""
    try:
        found = list(Inspection.of(source, tree))
    except (BlocksDiffer, TooInvolved, RecursionError, SyntaxError):
        return [{"line": 1, "name": "too involved to follow"}]
    first: dict[str, int] = {}
    for node, name in sorted(found, key=lambda one: getattr(one[0], "lineno", 1)):
        first.setdefault(name[:80], getattr(node, "lineno", 1))
    return [{"line": line, "name": name} for name, line in first.items()]


Finding = tuple[ast.AST, str]


@dataclass
class Inspection:
    """The checks of one source. wide: it has values of libraries whose attributes are many."""

    blocks: Blocks
    values: Values
    own: frozenset[str]
    wide: bool
    types: set[ast.AST] = field(default_factory=set)

    @classmethod
    def of(cls, source: str, tree: ast.Module) -> Iterator[Finding]:
        """Yield what may change something, node and name."""
        blocks = Blocks(source, tree)
        classes = [b for b in blocks.inner.values() if isinstance(b.node, ast.ClassDef)]
        own = frozenset(own_attributes(blocks))
        overloads = any(not lists.OPERATORS.isdisjoint(block.bindings) for block in classes)
        values = Values(blocks, own, overloads)
        values.settle()
        bindings = [one for b in blocks.inner.values() for found in b.bindings.values() for one in found]
        wide = any(one.path.partition(".")[0] in lists.WIDE for one in bindings)
        inspection = cls(blocks, values, own, wide)
        for block in blocks.inner.values():
            yield from inspection.check_block(block)

    def check_block(self, block: Block) -> Iterator[Finding]:
        """Yield the findings of one block."""
        for name in block.bindings:
            if name.startswith("__") and name.endswith("__") and name not in lists.SPECIAL:
                yield block.bindings[name][0].node, name
        for node in block.nodes:
            if type(node) not in KNOWN or getattr(node, "type_params", None):
                yield node, type(node).__name__
            yield from self.check(node, block)

    def check(self, node: ast.AST, block: Block) -> Iterator[Finding]:
        """Yield the findings of one node by itself."""
        match node:
            case ast.Import() | ast.ImportFrom():
                yield from self.check_import(node)
            case ast.Name(id=name, ctx=ast.Load()):
                yield from self.check_name(node, name, block)
            case ast.Attribute(ctx=ast.Load()):
                yield from self.check_attribute(node, block)
            case ast.Call():
                yield from self.check_call(node, block)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield from self.check_definition(node, block)
            case ast.AnnAssign(annotation=annotation):
                yield from self.check_type(annotation, block)
            case ast.MatchClass(kwd_attrs=names):
                yield from ((node, name) for name in names if not self.is_readable(name))
            case ast.GeneratorExp() if block.kept and not self.is_used_up(node, block):
                yield node, "a generator that is kept"
            case _:
                yield from self.check_change(node, block)

    def check_change(self, node: ast.AST, block: Block) -> Iterator[Finding]:
        """Yield changes of what the call has not made."""
        match node:
            case ast.Global(names=names) | ast.Nonlocal(names=names):
                yield node, names[0]
            case ast.Attribute():
                yield from self.check_attribute_change(node, block)
            case ast.Subscript(value=base, ctx=ast.Store() | ast.Del()):
                if not self.values.is_fresh(base, block):
                    yield node, f"{ast.unparse(base)}[...]"
            case ast.AugAssign(target=target) if not self.is_changeable(target, block):
                yield target, f"{ast.unparse(target)} {_operator(node.op)}="

    def is_changeable(self, node: ast.expr, block: Block) -> bool:
        """Whether `x += y` changes no more than the variable or a value of the same call."""
        return OUTSIDE not in self.values.of(node, block)

    def check_import(self, node: ast.Import | ast.ImportFrom) -> Iterator[Finding]:
        """Yield what is imported without being listed."""
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names if not is_module(alias.name))
        elif node.level or node.module is None:
            yield node, "." * node.level + (node.module or "")
        else:
            paths = [canonical(f"{node.module}.{alias.name}") for alias in node.names]
            yield from ((node, path) for path in paths if not (self.is_listed(path) or is_module(path)))

    def is_listed(self, path: str) -> bool:
        """Whether a dotted name is one of the listed ones."""
        module, _, name = path.rpartition(".")
        return name in (lists.BUILTINS if module == "builtins" else lists.MODULES.get(module, ()))

    def check_name(self, node: ast.Name, name: str, block: Block) -> Iterator[Finding]:
        """Yield a name that is neither listed nor the source's own."""
        owner = block.owner(name)
        path = self.values.path(node, block)
        if owner is None or owner.parent is None or isinstance(owner.node, ast.ClassDef):
            # A variable of a module or a class may be missing: then the name is the builtin's.
            if (owner is None or name in BUILTIN_NAMES) and name not in lists.BUILTINS:
                yield node, name
                return
            if owner is not None and (f"builtins.{name}" in lists.DIRECT or self.is_hiding(owner, name)):
                yield node, name
        if path:
            yield from self.check_path(node, path, block)
        elif owner is not None and any(binding.kind == "import" for binding in owner.bindings[name]):
            yield node, name

    def is_hiding(self, owner: Block, name: str) -> bool:
        """Whether a class has a variable of the name of an import around it, which stands for that until it is set."""
        around, block = [], owner.parent
        while block is not None:
            around += block.bindings.get(name, [])
            block = block.parent
        return isinstance(owner.node, ast.ClassDef) and any(binding.kind == "import" for binding in around)

    def check_path(self, node: ast.Name | ast.Attribute, path: str, block: Block) -> Iterator[Finding]:
        """Yield a builtin, a module or a part of one in a place where it is not certain."""
        parent = self.blocks.parents.get(node)
        called = isinstance(parent, ast.Call) and parent.func is node
        if is_module(path):
            if not isinstance(parent, ast.Attribute):
                yield node, path
        elif path == lists.ENVIRONMENT:
            if not self.is_reading_environment(node, parent):
                yield node, path
        elif not self.is_listed(path):
            yield node, path.removeprefix("builtins.")
        elif path in lists.DIRECT | lists.CHANGING:
            if not called:
                yield node, path.removeprefix("builtins.")
        elif block.kept and self.is_stateful(path) and not (called and self.is_consumed(parent, path, block)):
            yield node, path.removeprefix("builtins.")

    def is_stateful(self, path: str) -> bool:
        """Whether a listed name makes what reading it changes, or what may be changed in unseen ways."""
        return path in lists.STATEFUL or path.partition(".")[0] in lists.STATEFUL_MODULES

    def is_consumed(self, call: ast.AST | None, path: str, block: Block) -> bool:
        """Whether an iterator is used up where it is made."""
        parent = self.blocks.parents.get(call) if call else None
        if path not in lists.CONSUMED:
            return False
        if isinstance(parent, (ast.For, ast.comprehension)) or type(parent) in COMPREHENSIONS:
            return True
        return isinstance(parent, ast.Call) and self.values.path(parent.func, block) in lists.CONSUMING

    def is_used_up(self, node: ast.AST, block: Block) -> bool:
        """Whether a generator is the argument of a call that uses it up."""
        parent = self.blocks.parents.get(node)
        if not isinstance(parent, ast.Call):
            return False
        joined = isinstance(parent.func, ast.Attribute) and parent.func.attr == "join"
        return joined or self.values.path(parent.func, block) in lists.CONSUMING

    def is_reading_environment(self, node: ast.AST, parent: ast.AST | None) -> bool:
        """Whether the environment is only read here: `environ[k]`, `environ.get(k)`, `k in environ`."""
        match parent:
            case ast.Subscript(value=value, ctx=ast.Load()):
                return value is node
            case ast.Attribute(attr="get"):
                above = self.blocks.parents.get(parent)
                return isinstance(above, ast.Call) and above.func is parent
            case ast.Compare(left=left, ops=[ast.In() | ast.NotIn()]):
                return left is not node
        return False

    def is_readable(self, name: str) -> bool:
        """Whether an attribute of this name changes nothing, whatever value it is read on."""
        if self.wide:
            return name not in lists.NOT_WIDE and (name in lists.READING or name in lists.READING_SPECIAL)
        return name in lists.READING or name in lists.READING_SPECIAL or name in self.own

    def check_attribute(self, node: ast.Attribute, block: Block) -> Iterator[Finding]:
        """Yield an attribute that is not listed, or a method that changes what the call has not made."""
        path = self.values.path(node, block)
        if path:
            yield from self.check_path(node, path, block)
            return
        name, parent = node.attr, self.blocks.parents.get(node)
        call = parent if isinstance(parent, ast.Call) and parent.func is node else None
        if call and block.kept and (name in lists.LASTING or (name in self.own and name not in lists.READING)):
            yield node, name
        elif name in lists.MUTATING:
            if call is None or not self.values.is_fresh(node.value, block):
                yield node, ast.unparse(node)
        elif call and name in lists.GUARDED:
            yield from self.check_guarded(call, node, block)
        elif not (self.is_readable(name) or (call and self.is_initial(node, block))):
            yield node, name

    def check_guarded(self, call: ast.Call, node: ast.Attribute, block: Block) -> Iterator[Finding]:
        """Yield a call of a method that only reads with certain arguments, if it has others."""
        name = node.attr
        if name in lists.APPLYING:
            yield from self.check_applied(call, node, block)
        elif name in lists.EXPORTING:
            if call.args or any(keyword.arg not in lists.EXPORT_KEYWORDS for keyword in call.keywords):
                yield node, name
        elif name == "savefig":
            yield from self.check_savefig(call, node, block)
        elif not is_plain_format(node.value):
            yield node, name

    def is_initial(self, node: ast.Attribute, block: Block) -> bool:
        """Whether this is `super().__init__` within an `__init__`, of an object that is being made."""
        match node:
            case ast.Attribute(value=ast.Call(func=ast.Name("super"), args=[]), attr="__init__"):
                return isinstance(block.node, ast.FunctionDef) and block.node.name == "__init__"
        return False

    def check_attribute_change(self, node: ast.Attribute, block: Block) -> Iterator[Finding]:
        """Yield an attribute that is set or deleted on what the call has not made."""
        function = block.node
        plain = not (node.attr.startswith("__") and node.attr.endswith("__")) and isinstance(node.ctx, ast.Store)
        if plain and isinstance(function, Function) and function.name in ("__init__", "__post_init__"):
            first = [*function.args.posonlyargs, *function.args.args][:1]
            alone = block.parent is not None and isinstance(block.parent.node, ast.ClassDef)
            match node.value:
                case ast.Name(id=name) if alone and first and first[0].arg == name and len(block.bindings[name]) == 1:
                    return
        if not plain or node.attr.startswith("_") or not self.values.is_fresh_object(node.value, block):
            yield node, ast.unparse(node)

    def check_call(self, node: ast.Call, block: Block) -> Iterator[Finding]:
        """Yield calls whose arguments make them do more, and calls that cannot be made while importing."""
        path = self.values.path(node.func, block)
        yield from self.check_keywords(node, block)
        if path in lists.CHANGING and not (node.args and self.values.is_fresh(node.args[0], block)):
            yield node, path
        if path in lists.DIRECT:
            yield from self.check_direct(node, path, block)
        if path in ("typing.NewType", "typing.TypeVar"):
            written = [*node.args[1:], *(k.value for k in node.keywords if k.arg in ("bound", "default"))]
            yield from (finding for one in written for finding in self.check_type(one, block))
        if block.kept and not path and not isinstance(node.func, ast.Attribute):
            definition = self.values.definition(node.func, block)
            if not (isinstance(definition, ast.ClassDef) and self.is_record(definition, block)):
                yield node, f"{ast.unparse(node.func)}()"

    def check_keywords(self, node: ast.Call, block: Block) -> Iterator[Finding]:
        """Yield keywords that make a listed function do more."""
        names = {keyword.arg or "**" for keyword in node.keywords}
        if self.wide and "**" in names and not self.values.definition(node.func, block):
            yield node, "**"
        yield from ((node, name) for name in names & lists.KEYWORDS if not self.is_reduced(node, name))
        if "inplace" in names:
            func = node.func
            if not (isinstance(func, ast.Attribute) and self.values.is_fresh(func.value, block)):
                yield node, "inplace"

    def is_record(self, node: ast.ClassDef, block: Block) -> bool:
        """Whether making one of this class only fills its fields."""
        plain = all(isinstance(part, (ast.AnnAssign, ast.Assign, ast.Expr, ast.Pass)) for part in node.body)
        simple = not any(isinstance(part, (ast.Call, ast.Lambda)) for one in node.body for part in ast.walk(one))
        return plain and simple and not any(self.values.definition(base, block) for base in node.bases)

    def check_direct(self, node: ast.Call, path: str, block: Block) -> Iterator[Finding]:
        """Yield a call of what is certain only with these arguments."""
        match path, node.args, node.keywords:
            case "builtins.type", [one], [] if not isinstance(one, ast.Starred):
                return
            case "builtins.super", [], []:
                return
            case "builtins.getattr" | "builtins.hasattr", [_, ast.Constant(value=str(name)), *_], []:
                if not self.is_readable(name):
                    yield node, name
            case "matplotlib.pyplot.savefig", _, _:
                yield from self.check_savefig(node, node.func, block)
            case _:
                yield node, path.removeprefix("builtins.")

    def is_reduced(self, call: ast.Call, name: str) -> bool:
        """Whether this keyword names a reduction."""
        values = (keyword.value for keyword in call.keywords if keyword.arg == name)
        return name == "aggfunc" and all(isinstance(v, ast.Constant) and v.value in lists.REDUCTIONS for v in values)

    def check_applied(self, call: ast.Call, node: ast.Attribute, block: Block) -> Iterator[Finding]:
        """Yield `apply` and the like where what is applied may be the name of a method."""
        keywords = [k.value for k in call.keywords if k.arg not in ("axis", "numeric_only", "result_type", "raw")]
        for one in [*call.args[:1], *keywords]:
            if not self.is_applicable(one, block):
                yield node, node.attr
        if len(call.args) > 1:
            yield node, node.attr

    def is_applicable(self, node: ast.expr, block: Block) -> bool:
        """Whether data frames may apply this: a function of the source, or reductions by name."""
        match node:
            case ast.Constant(value=str(name)):
                return name in lists.REDUCTIONS
            case ast.List(elts=parts) | ast.Dict(values=parts):
                return all(self.is_applicable(part, block) for part in parts)
            case ast.Tuple(elts=[ast.Constant(), last]):
                return self.is_applicable(last, block)
            case ast.Lambda():
                return True
        return self.values.definition(node, block) is not None

    def check_savefig(self, call: ast.Call, node: ast.AST, block: Block) -> Iterator[Finding]:
        """Yield `savefig` unless it writes to memory."""
        found = self.values.of(call.args[0], block) if call.args else frozenset()
        if not found or any(self.values.paths.get(one) != "io.BytesIO" for one in found):
            yield node, "savefig"

    def check_definition(self, node: Function | ast.ClassDef, block: Block) -> Iterator[Finding]:
        """Yield decorators, bases and types that are not listed."""
        for decorator in node.decorator_list:
            func = decorator.func if isinstance(decorator, ast.Call) else decorator
            is_property = isinstance(func, ast.Attribute) and func.attr in ("setter", "getter")
            if self.values.path(func, block) not in lists.DECORATORS and not is_property:
                yield decorator, f"@{ast.unparse(func)}"
        if isinstance(node, ast.ClassDef):
            for base in node.bases:
                if not self.is_base(base, block):
                    yield base, f"class {node.name}({ast.unparse(base)})"
            yield from ((node, k.arg or "**") for k in node.keywords if k.arg not in lists.CLASS_KEYWORDS)
            return
        inner = self.blocks.inner[node]
        written = [one.annotation for one in inner.nodes if isinstance(one, ast.arg)]
        for annotation in filter(None, [*written, node.returns]):
            yield from self.check_type(annotation, block)

    def is_base(self, base: ast.expr, block: Block) -> bool:
        """Whether a class of the source may have this base."""
        if isinstance(base, ast.Subscript):
            path = self.values.path(base.value, block)
            bindings = (one for found in block.root.bindings.values() for one in found)
            models = any(one.path.startswith("pydantic") for one in bindings)  # they evaluate texts in brackets
            return path in ("typing.Generic", "typing.Protocol") and not models
        name, path = base, self.values.path(base, block)
        if path.startswith("builtins.") and isinstance(getattr(builtins, path[9:], None), type):
            return path in lists.BASES or issubclass(getattr(builtins, path[9:]), BaseException)
        return path in lists.BASES or isinstance(self.values.definition(name, block), ast.ClassDef)

    def check_type(self, node: ast.expr, block: Block) -> Iterator[Finding]:
        """Yield what in a type is no type: pydantic evaluates texts in it as code, wherever a variable leads."""
        match node:
            case ast.Constant():
                yield from self.check_written(node, block)
            case ast.Name():
                yield from self.check_type_name(node, block)
            case ast.Attribute() if self.is_listed(self.values.path(node, block)):
                return
            case ast.Subscript(value=base, slice=inner):
                path = self.values.path(base, block)
                written = inner.elts[:1] if path == "typing.Annotated" and isinstance(inner, ast.Tuple) else [inner]
                parts = [base] if path == "typing.Literal" else [base, *written]
                yield from (finding for part in parts for finding in self.check_type(part, block))
            case ast.BinOp(left=left, op=ast.BitOr(), right=right):
                yield from (finding for part in (left, right) for finding in self.check_type(part, block))
            case ast.Tuple(elts=parts) | ast.List(elts=parts):
                yield from (finding for part in parts for finding in self.check_type(part, block))
            case ast.Call(func=func) if self.values.path(func, block) in lists.TYPE_CALLS:
                return
            case _:
                yield node, ast.unparse(node)

    def check_written(self, node: ast.Constant, block: Block) -> Iterator[Finding]:
        """Yield a text that is no type."""
        if not isinstance(text := node.value, str):
            return
        try:
            inner = ast.parse(text, mode="eval").body
        except (SyntaxError, ValueError):
            yield node, text
            return
        if any(True for _ in self.check_type(inner, block)):
            yield node, text

    def check_type_name(self, node: ast.Name, block: Block) -> Iterator[Finding]:
        """Yield a name that stands for no type."""
        if path := self.values.path(node, block):
            if not self.is_listed(path):
                yield node, node.id
            return
        owner = block.owner(node.id)
        for binding in owner.bindings[node.id] if owner else ():
            if binding.kind == "value" and isinstance(binding.node, ast.expr) and not binding.depth:
                if binding.node not in self.types:
                    self.types.add(binding.node)
                    yield from self.check_type(binding.node, binding.block)
            elif not isinstance(binding.node, ast.ClassDef):
                yield node, node.id


def is_plain_format(node: ast.expr) -> bool:
    """Whether this is a text whose fields reach for no attributes or items."""
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and _has_plain_fields(node.value)


def _has_plain_fields(text: str) -> bool:
    try:
        fields = [(name or "", spec or "") for _, name, spec, _ in string.Formatter().parse(text)]
    except ValueError:
        return False
    return all(not set(name) & set(".[") and _has_plain_fields(spec) for name, spec in fields)


def _operator(node: ast.operator) -> str:
    return ast.unparse(ast.BinOp(ast.Name("x"), node, ast.Name("x"))).split()[1]
