"""What the documents say about names in the code is true."""

from __future__ import annotations

import importlib
import re
import runpy
from pathlib import Path

import pytest

from raydet.cli import main
from raydet.config.proposal_data import ProposalDataConfig
from raydet.config.transfer import TransferSection
from raydet.families.pretraining.config import PretrainingModelConfig
from raydet.registry import methods_of, run_configs
from raydet.settings import keys_of_methods
from raydet.train.rundir import FREE_TO_CHANGE

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


def test_the_configuration_page_offers_nothing_that_pre_training_refuses():
    fields = PretrainingModelConfig.model_fields
    for key in ("detector", *TransferSection.__annotations__):
        if key in fields and key != "weights":
            assert "refused" in str(fields[key].description).lower(), key
    assert "`labeled`" not in str(ProposalDataConfig.model_fields["val_count"].description)


def test_the_help_names_all_that_is_trained(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["--help"])
    said = "".join(capsys.readouterr().out.split())  # lines end anywhere
    assert "Detectors,localizersandclassifiersfromfewlabels,andpre-trainingwithoutlabels" in said


def test_what_a_resume_may_change_is_listed():
    page = (ROOT / "docs" / "recovery.md").read_text(encoding="utf-8")
    section = page.split("## What `--resume` may change\n")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    listed = [key for cell in rows for key in re.findall(r"`([a-z_.]+)`", cell)]
    rates = {key for run in run_configs() for method in methods_of(run) for key in method.lr_keys}
    assert sorted(listed) == sorted({*FREE_TO_CHANGE, *rates})


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
