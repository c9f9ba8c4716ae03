"""No two packages of raydet need each other: what is directly under `raydet/` can be read, and moved, in one order.

Imports inside functions count: a cycle that is put off until a call is a cycle all the same, and is marked as late.
Imports for type checkers alone do not.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "raydet"


@dataclass(frozen=True, order=True)
class Import:
    """One import of another package."""

    place: str  # file and line
    module: str  # what is imported
    is_late: bool  # inside a function

    def __str__(self) -> str:
        return f"{self.place} imports {self.module}{' (inside a function)' if self.is_late else ''}"


Graph = Mapping[str, Mapping[str, list[Import]]]  # package -> package -> where and what


def imports_of(source: str, place: str) -> list[Import]:
    """Return a file's imports, those under `if TYPE_CHECKING:` left out."""
    found: list[Import] = []

    def walk(nodes: Iterable[ast.AST], is_late: bool) -> None:
        for node in nodes:
            if isinstance(node, ast.Import):
                found.extend(Import(f"{place}:{node.lineno}", alias.name, is_late) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0 and node.module, f"{place}:{node.lineno}: imports are absolute"
                found.extend(
                    Import(f"{place}:{node.lineno}", f"{node.module}.{alias.name}", is_late) for alias in node.names
                )
            elif isinstance(node, ast.If) and _is_type_checking(node.test):
                walk(node.orelse, is_late)
            else:
                inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                walk(ast.iter_child_nodes(node), is_late or inside)

    walk([ast.parse(source)], False)
    return found


def _is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def graph_of(files: Mapping[str, str]) -> Graph:
    """Return who imports whom; `files`: path below `raydet/` -> source. A package is a folder or file in `raydet/`.

    `raydet/__init__.py` is a package of its own, `raydet`: from there come names that are no module's.
    """
    packages = {path.split("/")[0].removesuffix(".py") for path in files} - {"__init__"}
    graph: dict[str, dict[str, list[Import]]] = defaultdict(lambda: defaultdict(list))
    for path, source in files.items():
        first = path.split("/")[0].removesuffix(".py")
        mine = "raydet" if first == "__init__" else first
        for each in imports_of(source, f"raydet/{path}"):
            top, _, rest = each.module.partition(".")
            named = rest.split(".")[0]
            theirs = named if named in packages else "raydet"
            if top == "raydet" and theirs != mine:
                graph[mine][theirs].append(each)
    return graph


def cycles_of(graph: Graph) -> list[list[str]]:
    """Return a shortest cycle through each import that is in one; one list per cycle, its least package first."""
    found: set[tuple[str, ...]] = set()
    for mine in graph:
        for theirs in graph[mine]:
            path = _shortest(graph, theirs, mine)
            if path:
                least = path.index(min(path))
                found.add((*path[least:], *path[:least]))
    return [list(cycle) for cycle in sorted(found)]


def _shortest(graph: Graph, start: str, end: str) -> list[str]:
    """Return the packages from `start` to `end`, each of which imports the next; nothing where there is no way."""
    ways = [[start]]
    seen = {start}
    for way in ways:
        if way[-1] == end:
            return way
        for after in sorted(graph.get(way[-1], {})):
            if after not in seen:
                seen.add(after)
                ways.append([*way, after])
    return []


def report(graph: Graph, cycles: list[list[str]]) -> str:
    """Return each cycle, and the imports that close it."""
    lines = []
    for cycle in cycles:
        lines.append(" -> ".join([*cycle, cycle[0]]))
        for mine, theirs in zip(cycle, [*cycle[1:], cycle[0]], strict=True):
            lines += [f"    {each}" for each in sorted(graph[mine][theirs])]
    return "\n".join(lines)


def sources() -> dict[str, str]:
    return {str(file.relative_to(PACKAGE)): file.read_text(encoding="utf-8") for file in sorted(PACKAGE.rglob("*.py"))}


def test_a_cycle_is_found_with_the_imports_that_close_it():
    graph = graph_of(
        {
            "__init__.py": "__version__ = '1'",
            "a/one.py": "import os\nfrom raydet.b import x\nfrom raydet.a import two",
            "a/two.py": "from raydet import __version__",
            "b/__init__.py": "class C:\n    def f(self):\n        import raydet.c.deep",
            "c.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import raydet.d\nfrom raydet import a",
            "d.py": "from raydet.c import f",
        }
    )
    assert cycles_of(graph) == [["a", "b", "c"]]  # d and c: for a type checker alone
    assert report(graph, cycles_of(graph)).splitlines() == [
        "a -> b -> c -> a",
        "    raydet/a/one.py:2 imports raydet.b.x",
        "    raydet/b/__init__.py:3 imports raydet.c.deep (inside a function)",
        "    raydet/c.py:4 imports raydet.a",
    ]


def test_without_a_cycle_none_is_found():
    assert cycles_of(graph_of({"a.py": "import raydet.b", "b.py": "from raydet.c import x", "c.py": ""})) == []


def test_the_graph_is_that_of_the_package():
    graph = graph_of(sources())
    assert len(graph) > 15
    assert "train" in graph["commands"] and "labels" in graph["train"]
    assert "cli" in graph["__main__"]  # single files count too


def test_no_packages_import_each_other_in_a_circle():
    graph = graph_of(sources())
    cycles = cycles_of(graph)
    assert not cycles, "\n" + report(graph, cycles)
