"""The blocks of a source (module, classes, functions, comprehensions) and what binds each of their names.

Whose name a name is, is the standard `symtable` module's answer.
"""

from __future__ import annotations

import ast
import symtable
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from server import allowlist as lists

Kind = Literal["value", "context", "changed", "import", "definition", "parameter", "other"]
Function = ast.FunctionDef | ast.AsyncFunctionDef
MAX_NODES = 30_000
COMPREHENSIONS = {
    ast.ListComp: "listcomp",
    ast.SetComp: "setcomp",
    ast.DictComp: "dictcomp",
    ast.GeneratorExp: "genexpr",
}


class BlocksDiffer(Exception):
    """The syntax tree and the symbol table do not have the same blocks."""


class TooInvolved(Exception):
    """A source is too long to follow, or its values do not come to rest."""


@dataclass(frozen=True, eq=False)
class Binding:
    """One place that binds a name: to `node`, or to what is `depth` levels within it. path: what an import names."""

    kind: Kind
    node: ast.AST
    block: Block
    depth: int = 0
    path: str = ""


@dataclass(eq=False)
class Block:
    """One block. nodes are those that run in it; targets are attributes and items that an assignment changes."""

    node: ast.AST
    table: symtable.SymbolTable
    parent: Block | None
    nodes: list[ast.AST] = field(default_factory=list)
    bindings: defaultdict[str, list[Binding]] = field(default_factory=lambda: defaultdict(list))
    targets: list[tuple[ast.Subscript | ast.Attribute, Binding]] = field(default_factory=list)

    @property
    def frame(self) -> Block:
        """The block whose call makes the variables here: a comprehension runs within the block around it."""
        return self.parent.frame if self.parent and type(self.node) in COMPREHENSIONS else self

    @property
    def kept(self) -> bool:
        """Whether what is made here outlives a call: a module's and a class's variables do."""
        return isinstance(self.frame.node, (ast.Module, ast.ClassDef))

    @property
    def root(self) -> Block:
        """The module."""
        return self.parent.root if self.parent else self

    def owner(self, name: str) -> Block | None:
        """The block whose variable a name is here; None for a name that no block binds."""
        try:
            symbol = self.table.lookup(name)
        except KeyError:
            return self.parent.owner(name) if self.parent else None
        if self.parent is not None and symbol.is_local():
            return self
        if symbol.is_free() and self.parent is not None:
            return self.parent.enclosing(name)
        return self.root if name in self.root.bindings else None

    def enclosing(self, name: str) -> Block | None:
        """The function around that binds a name."""
        if not isinstance(self.node, ast.ClassDef):
            return self.owner(name)
        return self.parent.enclosing(name) if self.parent else None


@dataclass
class Blocks:
    """All blocks of a source, and the block and parent of each node."""

    source: str
    tree: ast.Module
    inner: dict[ast.AST, Block] = field(default_factory=dict)
    parents: dict[ast.AST, ast.AST] = field(default_factory=dict)
    _left: dict[symtable.SymbolTable, list[symtable.SymbolTable]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        table = symtable.symtable(self.source, "<source>", "exec")
        left: list[tuple[ast.AST, Block]] = [(self.tree, self._enter(self.tree, table, None))]
        while left:
            node, block = left.pop()
            block.nodes.append(node)
            if len(self.parents) > MAX_NODES:
                raise TooInvolved
            bind(node, block)
            parts = list(self._parts(node, block))
            self.parents.update((child, node) for child, _ in parts)
            left += reversed(parts)

    def _enter(self, node: ast.AST, table: symtable.SymbolTable, parent: Block | None) -> Block:
        self._left[table] = table.get_children()
        self.inner[node] = block = Block(node, table, parent)
        return block

    def _child(self, node: ast.AST, name: str, parent: Block) -> Block:
        """The block that a node begins: the first one that is left of this name and line. Raises BlocksDiffer."""
        children = self._left[parent.table]
        for index, table in enumerate(children):
            if (table.get_name(), table.get_lineno()) == (name, node.lineno):  # type: ignore[attr-defined]
                del children[index]
                block = self._enter(node, table, parent)
                if isinstance(table, symtable.Function) and set(table.get_parameters()) != parameters(node):
                    raise BlocksDiffer(name)
                return block
        raise BlocksDiffer(name)

    def _parts(self, node: ast.AST, block: Block) -> Iterator[tuple[ast.AST, Block]]:
        """The nodes within a node, each with its block, in the order in which Python's compiler makes blocks."""
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                args = node.args
                outside = [*args.defaults, *filter(None, args.kw_defaults)]
                outside += [a.annotation for a in arguments(args) if a.annotation]
                outside += [*filter(None, [node.returns]), *node.decorator_list]
                yield from ((child, block) for child in outside)
                inner = self._child(node, node.name, block)
                yield from ((child, inner) for child in [*arguments(args), *node.body])
            case ast.ClassDef():
                outside = [*node.bases, *(keyword.value for keyword in node.keywords), *node.decorator_list]
                yield from ((child, block) for child in outside)
                inner = self._child(node, node.name, block)
                yield from ((child, inner) for child in node.body)
            case ast.Lambda():
                defaults = [*node.args.defaults, *filter(None, node.args.kw_defaults)]
                yield from ((child, block) for child in defaults)
                inner = self._child(node, "lambda", block)
                yield from ((child, inner) for child in [*arguments(node.args), node.body])
            case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                first, *others = node.generators
                yield first.iter, block
                inner = self._child(node, COMPREHENSIONS[type(node)], block)
                elements = [node.value, node.key] if isinstance(node, ast.DictComp) else [node.elt]
                yield from ((child, inner) for child in [first.target, *first.ifs, *others, *elements])
                bind_target(first.target, Binding("value", first.iter, block, 1), inner)
            case ast.arg():
                return
            case ast.If(test=test, orelse=orelse) if is_main(test) and isinstance(block.node, ast.Module):
                yield from ((child, block) for child in [test, *orelse])
            case _:
                yield from ((child, block) for child in ast.iter_child_nodes(node))


def is_main(test: ast.expr) -> bool:
    """Whether a condition is `__name__ == "__main__"`, which no module is that is imported."""
    match test:
        case ast.Compare(left=ast.Name("__name__"), ops=[ast.Eq()], comparators=[ast.Constant("__main__")]):
            return True
    return False


def arguments(args: ast.arguments) -> list[ast.arg]:
    """Return all parameters."""
    return [*args.posonlyargs, *args.args, *filter(None, [args.vararg]), *args.kwonlyargs, *filter(None, [args.kwarg])]


def parameters(node: ast.AST) -> set[str]:
    """Return the names of the parameters as the symbol table has them."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
        return {argument.arg for argument in arguments(node.args)}
    return {".0"}


def bind(node: ast.AST, block: Block) -> None:
    """Record what a node by itself binds in its block."""
    match node:
        case ast.Import() | ast.ImportFrom(level=0):
            bind_import(node, block)
        case ast.Assign(targets=targets, value=value):
            for target in targets:
                bind_target(target, Binding("value", value, block), block)
        case ast.AnnAssign(target=target, value=ast.expr() as value):
            bind_target(target, Binding("value", value, block), block)
        case ast.AugAssign(target=target):
            bind_target(target, Binding("changed", node, block), block)
        case ast.NamedExpr(target=ast.Name(id=name), value=value):
            block.frame.bindings[name].append(Binding("value", value, block))
        case ast.For() | ast.AsyncFor() | ast.comprehension():
            bind_target(node.target, Binding("value", node.iter, block, 1), block)
        case ast.withitem(context_expr=value, optional_vars=ast.expr() as target):
            bind_target(target, Binding("context", value, block), block)
        case _:
            bind_name(node, block)


def bind_name(node: ast.AST, block: Block) -> None:
    """Record the name that a definition, a parameter or a pattern binds."""
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            block.bindings[name].append(Binding("definition", node, block))
        case ast.arg(arg=name):
            block.bindings[name].append(Binding("parameter", node, block))
        case ast.AnnAssign(value=None, target=ast.Name(id=name)):
            block.bindings[name].append(Binding("other", node, block))
        case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
            block.bindings[name].append(Binding("other", node, block))
        case ast.MatchMapping(rest=str(name)):
            block.bindings[name].append(Binding("other", node, block))


def bind_import(node: ast.Import | ast.ImportFrom, block: Block) -> None:
    """Record what an import binds."""
    for alias in node.names:
        if isinstance(node, ast.ImportFrom):
            path, name = f"{node.module}.{alias.name}", alias.asname or alias.name
        else:
            path = alias.name if alias.asname else alias.name.partition(".")[0]
            name = alias.asname or path
        block.bindings[name].append(Binding("import", node, block, path=path))


def bind_target(target: ast.expr, found: Binding, block: Block) -> None:
    """Record what an assignment binds: a name, an item, an attribute, or many of them at once."""
    match target:
        case ast.Name(id=name):
            block.bindings[name].append(found)
        case ast.Subscript() | ast.Attribute():
            block.targets.append((target, found))
        case ast.Starred(value=value):
            bind_target(value, Binding("other", target, found.block), block)
        case ast.Tuple(elts=targets) | ast.List(elts=targets):
            values = found.node.elts if isinstance(found.node, ast.Tuple) and not found.depth else []
            even = len(values) == len(targets) and not any(isinstance(one, ast.Starred) for one in [*values, *targets])
            for index, one in enumerate(targets):
                deeper = Binding(found.kind, found.node, found.block, found.depth + 1)
                bind_target(one, Binding(found.kind, values[index], found.block) if even else deeper, block)


def own_attributes(blocks: Blocks) -> Iterator[str]:
    """Yield the attributes that classes of the source give their objects."""
    for block in blocks.inner.values():
        names: list[str] = list(block.bindings) if isinstance(block.node, ast.ClassDef) else []
        if block.parent and isinstance(block.parent.node, ast.ClassDef):
            names += [target.attr for target, _ in block.targets if isinstance(target, ast.Attribute)]
        for name in names:
            if not (name.startswith("__") or name in lists.DENIED or name.startswith(lists.DENIED_PREFIXES)):
                yield name
