"""Who may import whom: the architecture as a test."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "raydet"

# The most specific prefix counts. A module may import raydet modules of its own or a lower layer.
LAYERS = {
    "raydet": 0,  # the package itself: __version__ only
    "raydet.errors": 0,
    "raydet.text": 0,
    "raydet.files": 0,
    "raydet.config": 0,
    "raydet.records": 0,
    "raydet.geometry": 0,
    "raydet.randomness": 0,
    "raydet.losses": 1,
    "raydet.gates": 1,
    "raydet.models": 1,
    "raydet.metrics": 1,
    "raydet.learning_rate": 1,
    "raydet.display": 1,
    "raydet.labels.schedule": 1,  # pure arithmetic: methods say with it which steps need labels
    "raydet.methods": 2,
    "raydet.labels": 2,
    "raydet.data": 2,
    "raydet.cluster": 3,
    "raydet.pool": 3,
    "raydet.tasks": 3,
    "raydet.train": 3,
    "raydet.label_files": 3,
    "raydet.evaluate": 3,
    "raydet.report": 3,
    "raydet.sweep": 4,
    "raydet.doctor": 4,  # looks at everything a command may use
    "raydet.commands": 5,
    "raydet.cli": 6,
    "raydet.__main__": 6,
}
SIBLINGS = ("raydet.methods", "raydet.labels", "raydet.data")  # layer 2: none imports another
FAMILIES = ("raydet.data.boxes", "raydet.data.images")  # what they share lies above them
MAY_IMPORT_RAY = (
    "raydet.label_files.actors",
    "raydet.cluster",
    "raydet.pool",
    "raydet.train",
    "raydet.evaluate",
    "raydet.sweep",
    "raydet.commands",
)


def modules() -> Iterator[tuple[str, set[str]]]:
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = ["raydet", *file.relative_to(PACKAGE).with_suffix("").parts]
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        imported: set[str] = set()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{file}: imports are absolute"
                imported |= {f"{node.module}.{alias.name}" for alias in node.names}
        yield name, imported


def prefix_of(module: str) -> str:
    known = [prefix for prefix in LAYERS if module == prefix or module.startswith(f"{prefix}.")]
    return max(known, key=len)


def test_every_module_belongs_to_a_layer_of_its_own():
    for name, _ in modules():
        assert prefix_of(name) != "raydet" or name == "raydet", f"{name}: give it a layer"


def test_modules_import_their_own_layer_or_lower():
    for name, imported in modules():
        for other in imported:
            if other.startswith("raydet."):
                assert LAYERS[prefix_of(other)] <= LAYERS[prefix_of(name)], f"{name} imports {other}"


def test_methods_labels_and_data_do_not_import_each_other():
    for name, imported in modules():
        mine = next((s for s in SIBLINGS if name.startswith(s)), None)
        for other in imported:
            theirs = next((s for s in SIBLINGS if other.startswith(s)), None)
            if mine and theirs and LAYERS[prefix_of(other)] == 2:
                assert mine == theirs, f"{name} imports {other}"


def test_data_with_boxes_and_data_with_classes_do_not_import_each_other():
    for name, imported in modules():
        mine = next((family for family in FAMILIES if name.startswith(family)), None)
        theirs = {family for family in FAMILIES for other in imported if other.startswith(family)}
        if name.startswith("raydet.data") and name != "raydet.data.kind":  # which of them lies at a path
            assert theirs <= {mine}, f"{name} imports {theirs}"


def test_only_the_shells_import_ray():
    for name, imported in modules():
        if any(other.split(".")[0] == "ray" for other in imported):
            assert name.startswith(MAY_IMPORT_RAY), f"{name} imports ray"


def test_the_configuration_imports_neither_torch_nor_ray():
    for name, imported in modules():
        if name.startswith("raydet.config"):
            heavy = {other for other in imported if other.split(".")[0] in ("torch", "torchvision", "ray")}
            assert not heavy, f"{name} imports {heavy}"
