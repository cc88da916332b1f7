"""Which modules belong to a plugin, read from its source: the answer is the same whatever was imported before it."""

import ast
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import resolve_name

IMPORTERS = {"import_module", "__import__", "exec_module"}
"""Functions that import a module whose name the source need not tell."""


def modules_of(plugin: str) -> tuple[set[str], bool]:
    """The modules of its top-level package that an imported plugin and its parent packages import.

    Args:
        plugin: dotted name of the module.

    Returns:
        Their names, and whether one of them calls `import_module` or the like, so that there may be more.
    """
    root = plugin.partition(".")[0]
    modules: set[str] = set()
    calls = False
    left = [*_with_parents(plugin)]
    while left:
        name = left.pop()
        if name in modules or name not in sys.modules or name.partition(".")[0] != root:
            continue
        modules.add(name)
        imported, also = _imports(name)
        calls |= also
        left += [one for dotted in imported for one in _with_parents(dotted)]
    return modules, calls


def source_of(module: str) -> bytes:
    """The file of a module, wherever its loader has it from; nothing where it has none."""
    spec = getattr(sys.modules.get(module), "__spec__", None)
    with suppress(AttributeError, OSError):
        return bytes(spec.loader.get_data(spec.origin))  # type: ignore[union-attr] # what has no such thing has no file
    return b""


def _with_parents(dotted: str) -> Iterator[str]:
    """Importing a.b.c imports a, a.b and a.b.c."""
    parts = dotted.split(".")
    return (".".join(parts[: count + 1]) for count in range(len(parts)))


def _imports(module: str) -> tuple[set[str], bool]:
    """Names that a module imports when it is imported itself, and whether it calls one of `IMPORTERS`.

    Some of the names are those of functions and classes. Imports inside functions and under `if TYPE_CHECKING` are left
    out, and so are calls in `__getattr__`: none of them runs when the module is imported.
    """
    try:
        tree = ast.parse(source_of(module))
    except (SyntaxError, ValueError):  # a compiled module
        return set(), False
    package = getattr(sys.modules[module].__spec__, "parent", None) or ""
    names: set[str] = set()
    calls = False
    left: list[tuple[ast.AST, bool]] = [(tree, False)]
    while left:
        node, later = left.pop()
        inside = list(ast.iter_child_nodes(node))
        match node:
            case ast.FunctionDef(name="__getattr__"):
                continue
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                later = True
            case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
                inside = list(node.orelse)
            case ast.Import() | ast.ImportFrom() if not later:
                names |= _named(node, package)
            case ast.Name(id=name) | ast.Attribute(attr=name):
                calls |= name in IMPORTERS
        left += [(child, later) for child in inside]
    return names, calls


def _named(node: ast.Import | ast.ImportFrom, package: str) -> set[str]:
    """The absolute names in an import statement of a module of a package."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    with suppress(ImportError):  # more dots than there are packages
        origin = resolve_name("." * node.level + (node.module or ""), package)
        return {origin, *(f"{origin}.{alias.name}" for alias in node.names)}
    return set()
