"""A family of methods stays in its own folder (decisions 014 and 018): who else names its classes knows too much."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from raydet.cli import parsed
from raydet.registry import NAMES

PACKAGE = Path(__file__).parents[2] / "raydet"

# Folders below raydet/ in which a family's classes live and are used freely.
PLACES = {name: (f"families/{name}/",) for name in NAMES}


@cache
def tree(file: str) -> ast.Module:
    return ast.parse((PACKAGE / file).read_text())


@cache
def files() -> tuple[str, ...]:
    return tuple(str(path.relative_to(PACKAGE)) for path in sorted(PACKAGE.rglob("*.py")))


def file_of(module: str) -> str | None:
    """Return the file of `raydet.a.b`, `a/b.py` or `a/b/__init__.py`; None where it is no module of the package."""
    parts = module.split(".")
    if parts[0] != "raydet":
        return None
    stem = "/".join(parts[1:])
    return next((file for file in (f"{stem}.py", f"{stem}/__init__.py".lstrip("/")) if file in files()), None)


def imports(file: str) -> Iterator[tuple[str, str, str | None, int]]:
    """Yield (name here, module, name there or None for the module itself, line) of every import, wherever it stands."""
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.asname or alias.name, alias.name, None, node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield alias.asname or alias.name, node.module, alias.name, node.lineno


@cache
def defined(file: str) -> frozenset[str]:
    """Return what a file defines itself at the top: classes, functions, variables."""
    found = set()
    for node in tree(file).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return frozenset(found)


@cache
def origin(module: str, name: str) -> tuple[str, str] | None:
    """Return the file and the name that an imported name was defined under, through all re-exports."""
    file = file_of(module)
    if file is None or name in defined(file):
        return None if file is None else (file, name)
    for here, other, there, _ in imports(file):
        if here == name and there is not None:
            return origin(other, there)
    return None


def family_of(file: str) -> str | None:
    found = [name for name, places in PLACES.items() if any(file == p or file.startswith(_folder(p)) for p in places)]
    assert len(found) <= 1, f"{file} belongs to {found}"
    return found[0] if found else None


def _folder(place: str) -> str:
    return place if place.endswith("/") else f"{place}/"


def owner(file: str, name: str) -> str | None:
    """Return the family that a class (or an alias or instance of one: whatever is capitalised) belongs to."""
    if not name.lstrip("_")[:1].isupper():
        return None
    return family_of(file)


def uses(file: str) -> Iterator[tuple[int, str, str]]:
    """Yield (line, class, its family) for every class of a family that is not this file's own, in order of lines."""
    modules: dict[str, str] = {}
    found = []
    for here, module, there, line in imports(file):
        if there is None or file_of(f"{module}.{there}") is not None:
            modules[here] = module if there is None else f"{module}.{there}"
        elif (place := origin(module, there)) is not None:
            found.append((line, *place))
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Attribute) and (module := modules.get(ast.unparse(node.value))) is not None:
            place = origin(module, node.attr)
            found += [(node.lineno, *place)] if place is not None else []
    for line, where, name in sorted(found):
        family = owner(where, name)
        if family is not None and family != family_of(file):
            yield line, name, family


def foreign_uses() -> dict[str, list[tuple[int, str, str]]]:
    """Return for each file of the package the classes of families that it uses without being one of their places."""
    return {file: found for file in files() if (found := list(uses(file)))}


def test_a_familys_classes_are_used_in_its_own_places_only():
    new = [
        f"raydet/{file}:{line} uses {name} of {family}"
        for file, found in foreign_uses().items()
        for line, name, family in found
    ]
    assert not new, "what the engine must know of a family, the family tells it by an interface: " + "; ".join(new)


def test_every_place_of_a_family_exists():
    for family, places in PLACES.items():
        for place in places:
            assert any(file == place or file.startswith(_folder(place)) for file in files()), f"{family}: {place}"


def test_every_family_is_a_task_of_init_and_check_data():
    for name in NAMES:
        for command in ("init", "check-data"):
            assert parsed([command, "photos", "--task", name]).task == name
