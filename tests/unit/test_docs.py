"""What the documents say about names in the code is true."""

from __future__ import annotations

import importlib
import re
import runpy
from pathlib import Path

from raydet.settings import keys_of_methods

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
SECTIONS = "run|data|model|method|optim|labels|pool|cluster|checkpoint|eval|log"


def named(pattern: str) -> list[tuple[str, str]]:
    """All (page, first group) of a pattern in the pages."""
    return [
        (str(page.relative_to(ROOT)), found)
        for page in PAGES
        for found in re.findall(pattern, page.read_text(encoding="utf-8"))
    ]


def test_the_configuration_page_is_up_to_date():
    script = runpy.run_path(str(ROOT / "docs" / "make_configuration.py"))
    assert script["PAGE"].read_text(encoding="utf-8") == script["page"](), "run python docs/make_configuration.py"


def test_links_and_pictures_exist():
    for page, target in named(r"\]\(([^)#]+)(?:#[^)]*)?\)"):
        if not target.startswith("https://"):
            assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"


def test_configuration_keys_exist():
    known = {key for keys in keys_of_methods().values() for key in keys}
    for page, key in named(rf"`((?:{SECTIONS})\.[a-z_.]+)[`=:]"):
        if not key.endswith((".py", ".yaml", ".md", ".json", ".arrow", "jsonl")):
            assert key in known, f"{page}: {key}"


def test_tests_that_are_named_exist():
    code = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("test_*.py"))
    for page, name in named(r"`(test_[a-z0-9_]+)`"):
        assert f"def {name}(" in code, f"{page}: {name}"


def test_places_in_the_code_exist():
    places = named(r"`(raydet/[a-z_/]+\.py(?::[A-Za-z_.]+)?)`")
    assert places
    for page, place in places:
        file, _, name = place.partition(":")
        assert (ROOT / file).is_file(), f"{page}: {file}"
        owner = importlib.import_module(file.removesuffix(".py").replace("/", "."))
        for part in filter(None, name.split(".")):
            assert hasattr(owner, part), f"{page}: {place}"
            owner = getattr(owner, part)


def test_the_diagram_of_processes_names_every_folder_of_the_package_once():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    boxes = re.findall(r'subgraph \w+\["[^"]*: ([a-z_/ ]+)"\]', page)
    named = [name.rstrip("/") for box in boxes for name in box.split()]
    folders = [path.parent.name for path in (ROOT / "raydet").glob("*/__init__.py")]
    assert sorted(named) == sorted(folders)
