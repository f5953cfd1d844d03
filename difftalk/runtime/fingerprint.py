"""What a stage's result depends on in the code: one hash over the modules that it imports.

A rule carries the fingerprint of its stage in `params`, so that an edit reruns exactly the stages that can
notice it. Modules are read, never imported: this is quick enough to happen whenever the workflow is parsed.
"""

import ast
import hashlib
import json
import os
import sys
from collections.abc import Collection, Iterator
from functools import cache, partial
from pathlib import Path

from difftalk.runtime.remembered import remembered

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
        "difftalk.runtime.remembered",
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
            about = file.stat()
            # Unpacked archives set the first, and nobody the second.
            times = (about.st_mtime_ns, about.st_ctime_ns)
            signature = (os.path.realpath(file), about.st_ino, about.st_size, times)
            content = remembered(f"file {signature}", partial(_sha256, file))
            name = file.relative_to(path) if path.is_dir() else file.name
            whole.update(f"{name} {content}\n".encode())
    return whole.hexdigest()


def _sha256(file: Path) -> str:
    with file.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


@cache
def _read(module: str) -> tuple[str, frozenset[str]]:
    """The hash of one module's code, and the modules of this package that it imports itself."""
    path = _path(module)
    assert path is not None, module
    code = path.read_bytes()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    # `ast.dump` differs between versions of Python.
    key = f"code {package} {hashlib.sha256(code).hexdigest()} {_own_code()} {sys.version_info[:3]}"
    digest, *names = json.loads(remembered(key, lambda: json.dumps(_parsed(code, str(path), package))))
    return digest, frozenset(name for name in names if _path(name) is not None) - {module}


def _parsed(code: bytes, file: str, package: str) -> list[str]:
    """The hash of some code, and the names of what may be modules of this package that it imports."""
    tree = ast.parse(code, filename=file)
    names = {name for name in _imports(tree, package) if name.split(".")[0] == PACKAGE.name}
    _forget_what_does_nothing(tree)
    return [hashlib.sha256(ast.dump(tree).encode()).hexdigest(), *sorted(names)]


@cache
def _own_code() -> str:
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]


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
    base = os.path.join(PACKAGE, *rest)
    candidates = [os.path.join(base, "__init__.py")] + ([f"{base}.py"] if rest else [])
    return next((Path(file) for file in candidates if os.path.isfile(file)), None)


def _forget_what_does_nothing(tree: ast.Module) -> None:
    """Take docstrings and `__version__ = ...` out of the tree."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [statement for statement in node.body if not _does_nothing(statement)]


def _does_nothing(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant)
    return isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__version__"
