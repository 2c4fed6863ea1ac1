"""Where the values of a source come from: made in the same call, or from outside of it.

A points-to analysis, regardless of order: a value is the set of the expressions that may have made it, and each of
these has the set of what may be stored in it. OUTSIDE stands for all that is not certain to be the call's own. A value
that cannot be changed is an empty set.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from dataclasses import dataclass, field

from server import allowlist as lists
from server.blocks import Binding, Block, Blocks, Function, TooInvolved

OUTSIDE = ast.Pass()  # stands for whatever a call has not made itself
Origins = frozenset[ast.AST]
EXTERNAL: Origins = frozenset({OUTSIDE})
NONE: Origins = frozenset()
MAX_STEPS = 400_000
RETURNED = "return"  # no variable has a keyword's name
CLASS = "a class of the source"


@dataclass
class Values:
    """The origins of each variable and of what is stored where.

    own are the attributes of the source's classes; overloads: a class of the source has operators of its own.
    """

    blocks: Blocks
    own: frozenset[str]
    overloads: bool
    variables: defaultdict[tuple[Block, str], Origins] = field(default_factory=lambda: defaultdict(frozenset))
    contents: defaultdict[ast.AST, Origins] = field(default_factory=lambda: defaultdict(frozenset))
    paths: dict[ast.AST, str] = field(default_factory=dict)
    loaded: set[str] = field(default_factory=set)
    held: dict[ast.AST, bool] = field(default_factory=dict)
    changed: bool = False
    steps: int = 0

    def settle(self) -> None:
        """Work out all origins. Raises TooInvolved."""
        names = (n for b in self.blocks.inner.values() for n in b.nodes if isinstance(n, ast.Name))
        self.loaded = {n.id for n in names if isinstance(n.ctx, ast.Load)}
        self.changed = True
        while self.changed:
            self.changed = False
            for block in self.blocks.inner.values():
                self._go_through(block)

    def _go_through(self, block: Block) -> None:
        for name, bindings in block.bindings.items():
            for binding in bindings:
                found = self.variables[block, name] | self._bound(binding)
                self.changed |= found != self.variables[block, name]
                self.variables[block, name] = found
        for node in block.nodes:
            if isinstance(node, ast.Return) and node.value:
                found = self.variables[block, RETURNED] | self.of(node.value, block)
                self.changed |= found != self.variables[block, RETURNED]
                self.variables[block, RETURNED] = found
        for target, binding in block.targets:
            self._store(target.value, block, self._bound(binding))
        for node in block.nodes:
            if isinstance(node, ast.Call):
                self._stored_by(node, block)

    def _stored_by(self, call: ast.Call, block: Block) -> None:
        """Store what a method such as `append` or a function such as `heappush` stores."""
        match call.func:
            case ast.Attribute(attr=name, value=receiver) if name in lists.MUTATING:
                one = name in lists.STORING_ONE
                stored = call.args[name in ("insert", "setdefault") :]
                for part in [*stored, *(keyword.value for keyword in call.keywords)]:
                    found = self.of(part, block)
                    self._store(receiver, block, found if one else self.reachable(found))
        if self.path(call.func, block) in lists.CHANGING and call.args:
            for part in call.args[1:]:
                self._store(call.args[0], block, self.of(part, block))

    def _store(self, container: ast.expr, block: Block, found: Origins) -> None:
        for origin in self.of(container, block) - EXTERNAL:
            self._hold(origin, found)

    def _hold(self, origin: ast.AST, found: Origins) -> Origins:
        """Record what something made by `origin` may hold. Returns the origin as a value. Raises TooInvolved."""
        self.steps += len(found)
        if not found <= self.contents[origin]:
            self.contents[origin] |= found
            self.changed = True
        return frozenset({origin})

    def content(self, found: Origins) -> Origins:
        """Return what values may hold."""
        inner = [self.contents[origin] for origin in found - EXTERNAL]
        return NONE.union(*inner, found & EXTERNAL)

    def reachable(self, found: Origins) -> Origins:
        """Return what values may hold, on whatever level."""
        everything, new = NONE, found
        while new := self.content(new) - everything:
            everything |= new
        return everything

    def _bound(self, binding: Binding) -> Origins:
        """Return what a binding gives its name."""
        match binding.kind, binding.node:
            case "value", ast.expr() as value:
                found = self.of(value, binding.block)
                for _ in range(binding.depth):
                    found = self.content(found)
                return found
            case "changed", ast.AugAssign(target=target, value=value) as node:
                parts = self.content(self.of(target, binding.block)) | self.content(self.of(value, binding.block))
                return EXTERNAL if self.overloads else self._hold(node, parts)
            case "context", ast.Call() as call if self.path(call.func, binding.block) in lists.CONTEXTS:
                return self.of(call, binding.block)
            case "parameter", ast.arg() as argument if self._is_immutable(argument, binding.block):
                return NONE
        return EXTERNAL

    def _is_immutable(self, argument: ast.arg, block: Block) -> bool:
        """Whether an argument is held to a type whose values cannot be changed."""
        node, outer = block.node, block.parent
        if outer is None or outer.parent is not None or argument.annotation is None or not isinstance(node, Function):
            return False
        if node not in self.held:
            self.held[node] = self._is_held(node, outer)
        special = (node.args.vararg, node.args.kwarg)
        return self.held[node] and argument not in special and self._is_immutable_type(argument.annotation, outer)

    def _is_held(self, node: Function, outer: Block) -> bool:
        """Whether arguments are held to their types: those of a function that the source itself does not use."""
        if node.decorator_list or node.name in self.loaded or len(outer.bindings[node.name]) > 1:
            return False
        defaults = [*node.args.defaults, *filter(None, node.args.kw_defaults)]
        return all(isinstance(default, (ast.Constant, ast.UnaryOp)) for default in defaults)

    def _is_immutable_type(self, written: ast.expr, block: Block) -> bool:
        match written:
            case ast.Constant(value=None):
                return True
            case ast.BinOp(left=left, op=ast.BitOr(), right=right):
                return self._is_immutable_type(left, block) and self._is_immutable_type(right, block)
            case ast.Subscript(value=base, slice=inner):
                parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
                match self.path(base, block):
                    case "typing.Literal":
                        return True
                    case "typing.Annotated":
                        return self._is_immutable_type(parts[0], block)
                    case "typing.Optional" | "typing.Union":
                        return all(self._is_immutable_type(part, block) for part in parts)
        return self.path(written, block) in lists.IMMUTABLE_TYPES

    def definition(self, node: ast.expr, block: Block) -> ast.AST | None:
        """Return the one function or class of the source that a name stands for."""
        if isinstance(node, ast.Name) and (owner := block.owner(node.id)):
            bindings = owner.bindings[node.id]
            if len(bindings) == 1 and bindings[0].kind == "definition":
                return bindings[0].node
        return None

    def path(self, node: ast.expr, block: Block) -> str:
        """Return the dotted name of what an expression names, if it names a builtin, a module or a part of one."""
        match node:
            case ast.Name(id=name):
                owner = block.owner(name)
                if owner is None:
                    return f"builtins.{name}"
                found = {binding.path for binding in owner.bindings[name] if binding.kind == "import"}
                if len(found) == 1 and all(binding.kind == "import" for binding in owner.bindings[name]):
                    return canonical(found.pop())
            case ast.Attribute(value=value, attr=name):
                base = self.path(value, block)
                if is_module(base):
                    return canonical(f"{base}.{name}")
        return ""

    def of(self, node: ast.expr, block: Block) -> Origins:
        """Return the origins of an expression's value. Raises TooInvolved."""
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise TooInvolved
        match node:
            case ast.Constant() | ast.JoinedStr() | ast.Compare() | ast.UnaryOp(op=ast.Not()):
                return NONE
            case ast.Name(id=name):
                owner = block.owner(name)
                own = owner is not None and owner.frame is block.frame
                return self.variables[owner, name] if owner and own else EXTERNAL
            case ast.BoolOp(values=values):
                return NONE.union(*(self.of(value, block) for value in values))
            case ast.IfExp(body=body, orelse=other):
                return self.of(body, block) | self.of(other, block)
            case ast.NamedExpr(value=value):
                return self.of(value, block)
            case ast.Call():
                return self._of_call(node, block)
            case ast.BinOp() | ast.UnaryOp() | ast.Subscript() | ast.Attribute():
                return self._of_part(node, block)
        return self._of_display(node, block)

    def _of_display(self, node: ast.expr, block: Block) -> Origins:
        """Return the origins of a list, a dict or a comprehension: itself."""
        match node:
            case ast.List() | ast.Tuple() | ast.Set():
                inner = NONE.union(*(self._element(one, block) for one in node.elts))
            case ast.Dict():
                pairs = zip(node.keys, node.values, strict=True)
                inner = NONE.union(*(self.of(v, block) if k else self.content(self.of(v, block)) for k, v in pairs))
            case ast.ListComp(elt=element) | ast.SetComp(elt=element) | ast.GeneratorExp(elt=element):
                inner = self.of(element, self.blocks.inner[node])
            case ast.DictComp(value=element):
                inner = self.of(element, self.blocks.inner[node])
            case _:
                return EXTERNAL
        return self._hold(node, inner)

    def _of_part(self, node: ast.expr, block: Block) -> Origins:
        """Return the origins of what an operator, an index or an attribute gives."""
        match node:
            case ast.Attribute(value=base, attr=name) if name in lists.VIEWS and name not in self.own:
                return self.of(base, block)
            case ast.Attribute():
                return EXTERNAL
            case _ if self.overloads:
                return EXTERNAL
            case ast.BinOp(left=left, right=right):
                return self._hold(node, self.content(self.of(left, block)) | self.content(self.of(right, block)))
            case ast.UnaryOp(operand=base) | ast.Subscript(value=base, slice=ast.Slice()):
                return self._hold(node, self.content(self.of(base, block)))
            case ast.Subscript(value=base):
                return self.content(self.of(base, block))
        return EXTERNAL

    def _element(self, node: ast.expr, block: Block) -> Origins:
        if isinstance(node, ast.Starred):
            return self.content(self.of(node.value, block))
        return self.of(node, block)

    def _of_call(self, call: ast.Call, block: Block) -> Origins:
        path = self.path(call.func, block)
        self.paths[call] = path
        if path:
            return self._of_listed(call, path, block)
        if node := self.definition(call.func, block):
            return self._of_own(call, node)
        if isinstance(call.func, ast.Attribute) and call.func.attr not in self.own:
            return self._of_method(call, call.func, block)
        return EXTERNAL

    def _given(self, call: ast.Call, block: Block) -> Origins:
        given = [*call.args, *(keyword.value for keyword in call.keywords)]
        return NONE.union(*(self._element(one, block) for one in given))

    def _of_listed(self, call: ast.Call, path: str, block: Block) -> Origins:
        module = path.rpartition(".")[0]
        plain = len(call.args) == 1 and not call.keywords and not isinstance(call.args[0], ast.Starred)
        given = self._given(call, block)
        if path in lists.IMMUTABLE_CALLS or module == "math":
            return EXTERNAL if self.overloads or (path == "builtins.sum" and not plain) else NONE
        if path in lists.COPIES or (path in ("builtins.reversed", "copy.copy") and plain):
            return self._hold(call, self.content(given) | self.content(self.content(given)))
        if path in lists.PAIRS:
            return self._hold(call, self._hold(call.func, self.content(given)))
        if path in ("json.loads", "copy.deepcopy") and plain:
            return self._hold(call, frozenset({call}))
        if path == "collections.defaultdict":
            more = NONE.union(*(self._element(one, block) for one in call.args[1:]))
            return self._hold(call, self._made_by(call, block) | self.content(more) | self.content(self.content(more)))
        if path == "csv.writer" or path == "csv.DictWriter":
            return self._hold(call, NONE) if call.args and self.is_fresh(call.args[0], block) else EXTERNAL
        if module.partition(".")[0] in lists.WIDE:
            return self._hold(call, frozenset({call}) | given | self.reachable(given))
        return self._hold(call, EXTERNAL) if path in lists.OBJECTS else EXTERNAL

    def _made_by(self, call: ast.Call, block: Block) -> Origins:
        """Return what the factory of a defaultdict makes."""
        factory = call.args[0] if call.args else ast.Constant(None)
        match factory:
            case ast.Lambda(body=body):
                return self.of(body, self.blocks.inner[factory])
            case ast.Constant(value=None):
                return NONE
        path = self.path(factory, block)
        if path in ("builtins.int", "builtins.float", "builtins.str", "builtins.bool"):
            return NONE
        makes = path in lists.COPIES and path != "builtins.iter"
        return self._hold(factory, NONE) if makes else EXTERNAL

    def _of_own(self, call: ast.Call, node: ast.AST) -> Origins:
        if isinstance(node, ast.ClassDef):
            plain = not node.bases and not node.keywords
            self.paths[call] = CLASS
            return self._hold(call, EXTERNAL) if plain else EXTERNAL
        if not isinstance(node, ast.FunctionDef) or node.decorator_list:
            return EXTERNAL
        block = self.blocks.inner[node]
        if any(isinstance(one, (ast.Yield, ast.YieldFrom)) for one in block.nodes):
            return EXTERNAL
        return self.variables[block, RETURNED]

    def _of_method(self, call: ast.Call, func: ast.Attribute, block: Block) -> Origins:
        receiver, name = self.of(func.value, block), func.attr
        if name in lists.IMMUTABLE:
            return NONE
        if name in lists.NEW:
            given = self._given(call, block)
            return self._hold(call, self.reachable(receiver) | given | self.reachable(given))
        if name in ("get", "pop", "popleft", "setdefault"):
            rest = [*call.args[name in ("get", "pop", "setdefault") :], *(k.value for k in call.keywords)]
            return self.content(receiver) | NONE.union(*(self._element(one, block) for one in rest))
        if name in ("values", "keys"):
            return self._hold(call, self.content(receiver))
        if name == "items":
            return self._hold(call, self._hold(func, self.content(receiver)))
        return EXTERNAL

    def is_fresh(self, node: ast.expr, block: Block) -> bool:
        """Whether a value was certainly made by the same call, and can be changed."""
        found = self.of(node, block)
        return bool(found) and OUTSIDE not in found

    def is_fresh_object(self, node: ast.expr, block: Block) -> bool:
        """Whether a value is an object with attributes that was certainly made by the same call."""
        found = self.of(node, block)
        return self.is_fresh(node, block) and all(isinstance(one, ast.Call) and self._is_object(one) for one in found)

    def _is_object(self, call: ast.Call) -> bool:
        path = self.paths.get(call, "")
        return path in lists.OBJECTS or path.partition(".")[0] in lists.WIDE or path == CLASS


def is_module(path: str) -> bool:
    """Whether a dotted name is a listed module, or a package of one."""
    return path in lists.MODULES or any(name.startswith(f"{path}.") for name in lists.MODULES if path)


def canonical(path: str) -> str:
    """Return a dotted name as the lists have it."""
    return "typing." + path.removeprefix("typing_extensions.") if path.startswith("typing_extensions.") else path
