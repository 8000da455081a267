"""The package uses no private name of another library."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import dynamo_tito

PACKAGE = Path(dynamo_tito.__file__).parent

#: Libraries that document only the names of their top level.
TOP_LEVEL_ONLY = {"aiohttp", "httpcore", "httpx", "openai", "tenacity"}

#: What a module of the package needs before it is imported, and an environment may lack.
EXTRAS = {"prometheus_client", "pyarrow", "ray"}


def private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def files() -> Iterator[tuple[str, ast.Module]]:
    for file in sorted(PACKAGE.rglob("*.py")):
        yield file.relative_to(PACKAGE).as_posix(), ast.parse(file.read_text())


def defined(tree: ast.AST) -> Iterator[str]:
    """Every name that a file of the package defines, attributes included."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name
            case ast.Attribute(attr=name, ctx=ast.Store()) | ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                yield name
            case _:
                pass


def read(tree: ast.AST) -> Iterator[str]:
    """Every private attribute that a file reads, by a dot or by ``getattr`` and the like."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name):
                yield name
            case ast.Call(func=ast.Name(id="getattr" | "setattr" | "hasattr" | "delattr"), args=[_, second, *_]):
                if isinstance(second, ast.Constant) and isinstance(second.value, str):
                    yield second.value
            case _:
                pass


def foreign_imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            modules = [(node.module, f"{node.module}.{alias.name}") for alias in node.names]
        elif isinstance(node, ast.Import):
            modules = [(alias.name, alias.name) for alias in node.names]
        else:
            continue
        for module, name in modules:
            top, *below = module.split(".")
            if top in ("dynamo_tito", "__future__"):
                continue
            if any(private(part) for part in name.split(".")) or (below and top in TOP_LEVEL_ONLY):
                yield name


def classes() -> Iterator[tuple[str, type]]:
    """Every class of the package with the file that defines it."""
    for found in pkgutil.walk_packages([str(PACKAGE)], "dynamo_tito."):
        if found.name.rpartition(".")[2] in ("__main__", "_core"):
            continue
        try:
            module = importlib.import_module(found.name)
        except ModuleNotFoundError as error:
            # An extra that is not installed here. Its files are read with all others; only their classes are not seen.
            if error.name not in EXTRAS:
                raise
            continue
        for value in vars(module).values():
            if inspect.isclass(value) and inspect.getmodule(value) is module:
                yield Path(inspect.getfile(value)).relative_to(PACKAGE).as_posix(), value


@functools.cache
def classes_of(file: str) -> dict[str, ast.ClassDef]:
    tree = ast.parse(Path(file).read_text())
    return {node.name: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


def source(cls: type) -> ast.ClassDef | None:
    try:
        return classes_of(inspect.getfile(cls)).get(cls.__name__)
    except (OSError, TypeError, UnicodeDecodeError):
        return None  # compiled


def of_bases(cls: type) -> Iterator[str]:
    """Private names that a class shares with its bases of other libraries: it reads, replaces or hides them."""
    ours = source(cls)
    if ours is None:
        return
    mine = {name for name in {*read(ours), *defined(ours)} if private(name)}
    for base in cls.__mro__[1:]:
        if base.__module__.partition(".")[0] == "dynamo_tito":
            mine -= {name for name in vars(base) if private(name)}
            continue
        theirs = source(base)
        names = {*vars(base), *(defined(theirs) if theirs else ())}
        subclassed = next(b for b in cls.__bases__ if issubclass(b, base))
        for name in mine & names:
            yield f"{subclassed.__name__}.{name}"


def used() -> set[tuple[str, str]]:
    trees = dict(files())
    ours = {name for tree in trees.values() for name in defined(tree)}
    found = {(file, name) for file, tree in trees.items() for name in foreign_imports(tree)}
    found |= {(file, name) for file, cls in classes() for name in of_bases(cls)}
    of_classes = {name.rpartition(".")[2] for _, name in found}
    for file, tree in trees.items():
        found |= {(file, f"?.{name}") for name in read(tree) if private(name) and name not in ours | of_classes}
    return found


def test_no_private_name_of_another_library_is_used() -> None:
    assert not used()


def test_the_search_sees_every_way_of_using_a_private_name() -> None:
    assert {*foreign_imports(ast.parse("from a._b import c\nimport httpcore._sync\nfrom a import _d"))} == {
        "a._b.c",
        "httpcore._sync",
        "a._d",
    }
    assert {*read(ast.parse("x._y; getattr(x, '_z')"))} == {"_y", "_z"}

    class Base:
        def _hook(self) -> None: ...

        def __init__(self) -> None:
            self._state = 1

    class Sub(Base):
        def read(self) -> int:
            return self._state

        def _hook(self) -> None: ...

    assert {*of_bases(Sub)} == {"Base._hook", "Base._state"}
