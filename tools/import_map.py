"""Print which package of difftalk imports which, and check that imports point downward.

    python tools/import_map.py              # packages, arrows between them, upward ones, circles, long files
    python tools/import_map.py --walk train # the files that lead through a stage from its rule to its result
    python tools/import_map.py --root DIR   # the same for another checkout

A room is a package at the top of difftalk, or a loose module there; `models/formats` is a room of its own.
Files are read, never imported. The exit status is 1 where an import points upward or in a circle, where a
stage imports a stage, or where a room has no floor.
"""

import argparse
import ast
import re
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path

PACKAGE = "difftalk"
# From the top. A room may import what is below it, and neighbours on its floor while there is no circle.
FLOORS = (
    ("__main__",),
    ("cli",),
    ("stages",),
    ("app",),
    ("training", "animation"),
    ("sampling", "reporting", "face"),
    ("models", "models/formats", "evaluation"),
    ("speech", "datasets"),
    ("media", "pretrained", "config"),
    ("runtime",),
    ("__init__",),
)
INNER_ROOMS = ("models/formats",)
LONGEST = 400

Arrows = Mapping[str, Collection[str]]


def read_modules(root: Path) -> dict[str, Path]:
    """Return the modules of the package in the checkout `root`: `{dotted name: file}`.

    A package stands for its `__init__`.
    """
    modules = {}
    for file in sorted((root / PACKAGE).rglob("*.py")):
        parts = file.relative_to(root).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return modules


def room_of(module: str) -> str:
    """The room that a module is in: `difftalk.models.formats.ldm` is in `models/formats`."""
    parts = module.split(".")[1:]
    return next(
        (room for room in INNER_ROOMS if parts[:2] == room.split("/")), parts[0] if parts else "__init__"
    )


def imported_names(node: ast.AST, package: str) -> Iterator[tuple[str, str]]:
    """Yield `(module, name)` of each import below `node`, those inside functions included.

    `name` is empty for `import a.b`.
    """
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for statement in child.orelse:
                yield from imported_names(statement, package)
        elif isinstance(child, ast.Import):
            yield from ((alias.name, "") for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - child.level + 1] if child.level else []
            base = ".".join([*above, *([child.module] if child.module else [])])
            yield from ((base, alias.name) for alias in child.names)
        else:
            yield from imported_names(child, package)


def module_arrows(modules: Mapping[str, Path]) -> dict[str, set[str]]:
    """Who imports whom: `{module: modules of the package that it imports itself}`."""
    arrows: dict[str, set[str]] = {}
    for module, file in modules.items():
        package = module if file.name == "__init__.py" else module.rpartition(".")[0]
        arrows[module] = set()
        for base, name in imported_names(ast.parse(file.read_bytes(), filename=str(file)), package):
            target = f"{base}.{name}" if f"{base}.{name}" in modules else base
            if target in modules and target != module:
                arrows[module].add(target)
    return arrows


def room_arrows(arrows: Arrows) -> Counter[tuple[str, str]]:
    """Arrows between rooms, each with the number of imports from module to module that it stands for."""
    pairs = ((room_of(module), room_of(target)) for module, targets in arrows.items() for target in targets)
    return Counter(pair for pair in pairs if pair[0] != pair[1])


def reachable(start: str, arrows: Arrows) -> set[str]:
    """What one gets to from `start` along one arrow or more."""
    seen: set[str] = set()
    waiting = list(arrows.get(start, ()))
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting.extend(arrows.get(name, ()))
    return seen


def circles(arrows: Arrows) -> list[list[str]]:
    """Groups whose members all import one another, directly or not."""
    reach = {name: reachable(name, arrows) for name in arrows}
    groups = {tuple(sorted(o for o in reach[name] if name in reach.get(o, ()))) for name in arrows}
    return sorted(list(group) for group in groups if group)


def floor_of(room: str) -> int | None:
    """The number of a room's floor, 0 at the top; None where `FLOORS` does not name it."""
    return next((k for k, floor in enumerate(FLOORS) if room in floor), None)


def upward(arrows: Arrows) -> list[tuple[str, str]]:
    """Imports of a module on a higher floor, from module to module."""
    found = []
    for module, targets in arrows.items():
        here = floor_of(room_of(module))
        for target in sorted(targets):
            there = floor_of(room_of(target))
            if here is not None and there is not None and there < here:
                found.append((module, target))
    return found


def by_room(between: Collection[tuple[str, str]]) -> dict[str, set[str]]:
    """Arrows between rooms as `{room: rooms that it imports}`, for `circles`."""
    arrows: dict[str, set[str]] = {}
    for room, target in between:
        arrows.setdefault(room, set()).add(target)
        arrows.setdefault(target, set())
    return arrows


def is_stage(module: str) -> bool:
    return module.startswith(f"{PACKAGE}.stages.")


def depth(arrows: Arrows) -> int:
    """Count the floors on which the rooms lie as the imports have it.

    That is the longest chain of arrows; a circle is one floor.
    """
    ring = {name: next((group[0] for group in circles(arrows) if name in group), name) for name in arrows}

    @cache
    def below(name: str) -> int:
        members = [other for other in arrows if ring[other] == name]
        targets = {ring[target] for member in members for target in arrows[member]} - {name}
        return 1 + max((below(target) for target in targets), default=0)

    return max(below(name) for name in ring.values())


def count_lines(file: Path) -> int:
    return len(file.read_text(encoding="utf-8").splitlines())


def problems_of(arrows: Arrows) -> list[str]:
    """Return one line for each upward arrow, import from stage to stage, and circle.

    Rooms without a floor share one line.
    """
    homeless = sorted({room_of(module) for module in arrows if floor_of(room_of(module)) is None})
    between_stages = [(m, t) for m in arrows for t in sorted(arrows[m]) if is_stage(m) and is_stage(t)]
    return [
        *([f"no floor in FLOORS: {', '.join(homeless)}"] if homeless else []),
        *(f"upward: {module} imports {target}" for module, target in upward(arrows)),
        *(f"stage imports stage: {module} imports {target}" for module, target in between_stages),
        *(f"circle of rooms: {', '.join(group)}" for group in circles(by_room(room_arrows(arrows)))),
        *(f"circle of modules: {', '.join(group)}" for group in circles(arrows)),
    ]


def print_map(modules: Mapping[str, Path], arrows: Arrows) -> None:
    """Print the rooms by floor with their modules, the arrows between them, and long modules."""
    lines = {module: count_lines(file) for module, file in modules.items()}
    rooms: dict[str, list[str]] = {}
    for module in modules:
        rooms.setdefault(room_of(module), []).append(module)
    between = room_arrows(arrows)

    def height(room: str) -> int:
        floor = floor_of(room)
        return -1 if floor is None else floor

    print(f"{len(modules)} modules, {sum(lines.values())} lines, {len(rooms)} rooms")
    for room in sorted(rooms, key=lambda room: (height(room), room)):
        floor = "no floor" if height(room) < 0 else f"floor {len(FLOORS) - 1 - height(room)}"
        print(f"\n{room}  ({floor}, {sum(lines[m] for m in rooms[room])} lines)")
        prefix = ".".join([PACKAGE, *room.split("/")]) + "."
        for module in rooms[room]:
            if lines[module] > 1:
                print(f"    {lines[module]:4}  {module.removeprefix(prefix)}")
        targets = {target: n for (source, target), n in sorted(between.items()) if source == room}
        if targets:
            print("    imports " + ", ".join(f"{target} {n}" for target, n in targets.items()))
    print(
        f"\n{len(between)} arrows between rooms on {depth(by_room(between))} floors, "
        f"{between.total()} imports from module to module"
    )
    long = sorted(((n, module) for module, n in lines.items() if n > LONGEST), reverse=True)
    print(
        f"{len(long)} modules over {LONGEST} lines" + "".join(f"\n    {n:4}  {module}" for n, module in long)
    )


def walk(root: Path, stage: str, modules: Mapping[str, Path], arrows: Arrows) -> None:
    """Print the files one opens for a stage: its rule, its module, and the modules which that imports itself.

    Raises:
        SystemExit: where there is neither such a rule nor such a module.
    """
    rules = "\n".join(file.read_text(encoding="utf-8") for file in sorted(root.glob("workflow/rules/*.smk")))
    rule = re.search(rf"^(?:rule|checkpoint) {re.escape(stage)}:\n((?:[ \t].*\n|\n)*)", rules, re.MULTILINE)
    # A rule may name the module; where stages have a folder of their own, it is named after the stage.
    named = re.search(rf'"({PACKAGE}\.[\w.]+)"', rule[1]) if rule else None
    module = f"{PACKAGE}.stages.{stage}"
    module = named[1] if module not in modules and named else module
    if module not in modules:
        raise SystemExit(f"no stage {stage}: neither a rule nor the module {module}")
    files = [
        file
        for file in sorted(root.glob("workflow/rules/*.smk"))
        if re.search(rf"^(?:rule|checkpoint) {re.escape(stage)}:", file.read_text(), re.MULTILINE)
    ]
    files += [modules[name] for name in (module, *sorted(arrows[module]))]
    for file in files:
        print(f"{count_lines(file):6}  {file.relative_to(root)}")
    print(f"{sum(map(count_lines, files)):6}  lines in {len(files)} files")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--root", type=Path, default=Path(__file__).resolve().parents[1], help="checkout to read"
    )
    parser.add_argument("--walk", metavar="STAGE", help="print the files one opens to follow this stage")
    options = parser.parse_args()
    root = options.root.resolve()
    modules = read_modules(root)
    if not modules:
        raise SystemExit(f"no package {PACKAGE} in {root}")
    arrows = module_arrows(modules)
    if options.walk:
        walk(root, options.walk, modules, arrows)
        return 0
    print_map(modules, arrows)
    problems = problems_of(arrows)
    print("\n".join(problems) or "no import points upward, none in a circle")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
