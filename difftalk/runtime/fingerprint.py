"""What a stage's result depends on in the code: one hash over the modules that it imports.

A rule carries the fingerprint of its stage in `params`, so that an edit reruns exactly the stages that can
notice it. Modules are read, never imported: this is quick enough to happen whenever the workflow is parsed.
"""

import ast
import hashlib
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]

# They speak to people, keep what others make, end what is not wanted any more, say where a file lies or a
# network runs, or check values, and shape no output, so an edit in them causes no rerun. The values
# themselves, and what lies in the file (`pretrained.recorded`), a rule has in its `params`; another device
# changes rounding, as the key `gpu`.
UNSEEN = frozenset(
    {
        "difftalk.runtime.ancestors",
        "difftalk.runtime.arguments",
        "difftalk.runtime.cache",
        "difftalk.runtime.device",
        "difftalk.runtime.faults",
        "difftalk.runtime.progress",
        "difftalk.runtime.errors",
        "difftalk.runtime.suggest",
        "difftalk.pretrained.table",
    }
)
UNSEEN_PACKAGE = "difftalk.config"


def fingerprint(module: str, *, without: Collection[str] = ()) -> str:
    """Return a sha256 over `module` and every module of this package that it imports.

    Indirect imports and those inside functions count, and so do modules named by a string, as
    `importlib.import_module` takes them; those under `if TYPE_CHECKING` do not. Comments, formatting,
    docstrings and the package's version leave the hash as it is.

    Args:
        module: dotted name of a module of this package.
        without: modules that `module` could import but will not, such as the backends that were not chosen.

    Raises:
        ModuleNotFoundError: if `module` or one of `without` is not in this package.
    """
    whole = hashlib.sha256()
    for name in imported_modules(module, without=without):
        whole.update(f"{name} {_read(name)[0]}\n".encode())
    return whole.hexdigest()


def imported_modules(module: str, *, without: Collection[str] = ()) -> list[str]:
    """`module` and the modules of this package that it imports, directly or not, sorted by name.

    Raises:
        ModuleNotFoundError: if `module` or one of `without` is not in this package.
    """
    for name in (module, *without):
        if _path(name) is None:
            raise ModuleNotFoundError(f"no module {name} below {PACKAGE}")
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in seen and name not in without and not _is_unseen(name):
            seen.add(name)
            waiting.extend(_read(name)[1])
    return sorted(seen)


def _is_unseen(module: str) -> bool:
    return module in UNSEEN or module == UNSEEN_PACKAGE or module.startswith(f"{UNSEEN_PACKAGE}.")


def fingerprint_files(*paths: str | Path) -> str:
    """A sha256 over the contents of files, and of the files below folders: for weights and other data.

    Raises:
        FileNotFoundError: if one of `paths` does not exist.
    """
    whole = hashlib.sha256()
    for path in map(Path, paths):
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            with file.open("rb") as source:
                content = hashlib.file_digest(source, "sha256").hexdigest()
            name = file.relative_to(path) if path.is_dir() else file.name
            whole.update(f"{name} {content}\n".encode())
    return whole.hexdigest()


@cache
def _read(module: str) -> tuple[str, frozenset[str]]:
    """The hash of one module's code, and the modules of this package that it imports itself."""
    path = _path(module)
    assert path is not None, module
    tree = ast.parse(path.read_bytes(), filename=str(path))
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    imports = {name for name in _imports(tree, package) if _path(name) is not None}
    _forget_what_does_nothing(tree)
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), frozenset(imports - {module})


def _imports(node: ast.AST, package: str) -> Iterator[str]:
    """Names that the code below `node` may import, with the packages around them; some may be no modules."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield from _with_parents(alias.name)
        elif isinstance(child, ast.ImportFrom):
            base = child.module or ""
            if child.level:
                above = package.split(".")[: len(package.split(".")) - child.level + 1]
                base = ".".join([*above, base] if base else above)
            yield from _with_parents(base)
            for alias in child.names:
                yield f"{base}.{alias.name}"
        elif isinstance(child, ast.Constant):
            if isinstance(child.value, str) and child.value.startswith(f"{PACKAGE.name}."):
                yield from _with_parents(child.value)
        else:
            yield from _imports(child, package)


def _with_parents(name: str) -> Iterator[str]:
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        yield ".".join(parts[:end])


def _path(module: str) -> Path | None:
    """The file of a module of this package; None for any other name."""
    first, *rest = module.split(".")
    if first != PACKAGE.name:
        return None
    base = PACKAGE.joinpath(*rest)
    candidates = [base / "__init__.py"] + ([base.with_suffix(".py")] if rest else [])
    return next((path for path in candidates if path.is_file()), None)


def _forget_what_does_nothing(tree: ast.Module) -> None:
    """Take docstrings and `__version__ = ...` out of the tree."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [statement for statement in node.body if not _does_nothing(statement)]


def _does_nothing(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant)
    return isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__version__"
