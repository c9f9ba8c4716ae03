"""Who may import whom: the architecture as a test."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from raydet.registry import NAMES, methods_of, run_configs

PACKAGE = Path(__file__).parents[2] / "raydet"

# The most specific prefix counts. A module may import raydet modules of its own or a lower layer.
LAYERS = {
    "raydet": 0,  # the package itself: __version__ only
    "raydet.errors": 0,
    "raydet.files": 0,
    "raydet.faults": 0,
    "raydet.config": 0,
    "raydet.randomness": 0,
    "raydet.group": 0,
    "raydet.window": 0,
    "raydet.precision": 0,
    "raydet.learning_rate": 0,
    "raydet.arithmetic": 0,
    "raydet.records": 0,
    "raydet.text": 0,
    "raydet.registry": 0,  # imports a family when it is asked for one, by name
    "raydet.settings": 1,
    "raydet.metrics": 1,
    "raydet.vision": 1,
    "raydet.display": 1,
    "raydet.labels": 2,
    "raydet.data": 2,
    "raydet.recipe": 3,
    "raydet.contract": 3,
    "raydet.cluster": 3,
    "raydet.pool": 4,
    "raydet.train": 4,
    "raydet.report": 5,  # reads run folders
    "raydet.families": 6,
    "raydet.image_jobs": 4,
    "raydet.label_files": 7,
    "raydet.proposals": 7,
    "raydet.sweep": 7,
    "raydet.doctor": 7,  # looks at everything a command may use
    "raydet.commands": 8,
    "raydet.cli": 9,
    "raydet.__main__": 9,
}
SIBLINGS = ("raydet.labels", "raydet.data")  # neither imports the other
KINDS = ("raydet.data.boxes", "raydet.data.classes")  # of annotations; what they share lies above them
FILES = ("config", "data", "views", "loader", "batch", "assemble", "method", "evaluate", "run", "family")
METHODS = {run.family: methods_of(run) for run in run_configs()}
MAY_IMPORT_RAY = (
    "raydet.image_jobs.actors",
    "raydet.cluster",
    "raydet.pool",
    "raydet.train",
    "raydet.sweep",
    "raydet.commands",
)


@cache
def modules() -> list[tuple[str, set[str]]]:
    return list(_modules())


def _modules() -> Iterator[tuple[str, set[str]]]:
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = ["raydet", *file.relative_to(PACKAGE).with_suffix("").parts]
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        imported: set[str] = set()
        tree = ast.parse(file.read_text())
        of_types = {
            each
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            for each in ast.walk(node)
        }
        for node in ast.walk(tree):
            if node in of_types:
                continue
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


def test_the_page_of_the_architecture_has_the_same_layers():
    rows = re.findall(r"^\| (\d) \| ([^|]*) \|", (PACKAGE.parent / "docs" / "architecture.md").read_text(), flags=re.M)
    said = {
        f"raydet.{name.removesuffix('.py').split('/')[0]}": int(layer)
        for layer, names in rows
        for name in re.findall("`([^`]*)`", names)
    }
    assert said == {name: layer for name, layer in LAYERS.items() if name not in ("raydet", "raydet.__main__")}


def test_modules_import_their_own_layer_or_lower():
    for name, imported in modules():
        for other in imported:
            if other.startswith("raydet."):
                assert LAYERS[prefix_of(other)] <= LAYERS[prefix_of(name)], f"{name} imports {other}"


def test_labels_and_data_do_not_import_each_other():
    for name, imported in modules():
        mine = next((s for s in SIBLINGS if name.startswith(s)), None)
        for other in imported:
            theirs = next((s for s in SIBLINGS if other.startswith(s)), None)
            if mine and theirs:
                assert mine == theirs, f"{name} imports {other}"


def test_data_with_boxes_and_data_with_classes_do_not_import_each_other():
    for name, imported in modules():
        mine = next((kind for kind in KINDS if name.startswith(kind)), None)
        theirs = {kind for kind in KINDS for other in imported if other.startswith(kind)}
        # `kind` says which of them lies at a path; `located` has both, classes to train on and boxes to measure by
        if name.startswith("raydet.data") and not name.startswith(("raydet.data.kind", "raydet.data.located")):
            assert theirs <= {mine}, f"{name} imports {theirs}"


def family_in(module: str) -> str | None:
    parts = module.split(".")
    return parts[2] if parts[:2] == ["raydet", "families"] and len(parts) > 2 else None


def test_families_are_named_by_the_registry_alone():
    knowing = set()
    for name, imported in modules():
        theirs = {family_in(other) for other in imported} - {None}
        if family_in(name) is None and theirs:
            knowing.add(name)
        elif theirs:
            assert theirs == {family_in(name)}, f"{name} imports another family: {theirs}"
    assert not knowing, f"ask the registry, or move it into the family: {knowing}"


def test_who_knows_one_family_finds_the_same_files_in_every_other():
    for name in NAMES:
        folder = PACKAGE / "families" / name
        wanted = [*FILES, *(["annotator"] if any(method.uses_labels for method in METHODS[name]) else [])]
        assert [file for file in wanted if not (folder / f"{file}.py").is_file()] == [], name
        assert all((folder / inside).is_dir() for inside in ("methods", "recipe", "report")), name


def test_the_settings_of_families_are_read_without_torch_and_ray():
    script = (
        "import sys; from raydet.registry import config_classes, family_commands; config_classes(); family_commands(); "
        "print([name for name in ('torch', 'torchvision', 'ray', 'matplotlib') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == "[]"


def test_only_the_report_imports_matplotlib():
    for name, imported in modules():
        if any(other.split(".")[0] == "matplotlib" for other in imported):
            assert name.startswith(("raydet.report", "raydet.sweep")), f"{name} imports matplotlib"


def test_only_the_shells_import_ray():
    for name, imported in modules():
        if any(other.split(".")[0] == "ray" for other in imported):
            assert name.startswith(MAY_IMPORT_RAY), f"{name} imports ray"


def test_the_configuration_imports_neither_torch_nor_ray():
    for name, imported in modules():
        if name.startswith("raydet.config"):
            heavy = {other for other in imported if other.split(".")[0] in ("torch", "torchvision", "ray")}
            assert not heavy, f"{name} imports {heavy}"
