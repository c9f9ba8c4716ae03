"""What docstrings, comments, messages and pages name of this repository is there.

A *mention* is a run of path characters that ends in `.py` or `.md`, or that begins with a folder at the repository's
root (`raydet/`, `tests/`, ...). It may be written from the root, from `raydet/` or from the folder of the file that it
is in; a name without a folder may be that of any file. What has a placeholder in it is no mention: a part in capitals
(`RUN/...`, `CONFIG.yaml`), or any of `* < > { } $`. Files of the user's have other endings and no such beginning.
Dotted names that begin with `raydet.` are modules, or what is in them. Decisions are named by their number.
"""

from __future__ import annotations

import ast
import importlib
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "raydet"
FOLDERS = ("raydet", "tests", "docs", "benchmarks", "jobs", "tune_spaces")
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
CAPITAL_FILES = {"README.md", "CHANGELOG.md"}

_TOKEN = re.compile(r"[\w./*<>{}$~+-]+(?::[A-Za-z_][\w.]*)?")
_DOTTED = re.compile(r"(?<![\w./-])raydet(?:\.[A-Za-z_]\w*)+")
_URL = re.compile(r"https?://\S+")


@cache
def prose_of(file: Path) -> list[tuple[int, str]]:
    """Return line and text of all that is said in a file: a page as a whole, of code its strings and comments."""
    source = file.read_text(encoding="utf-8")
    if file.suffix != ".py":
        return list(enumerate(source.splitlines(), start=1))
    lines: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            lines += enumerate(node.value.split("\n"), start=node.lineno)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return lines + [(token.start[0], token.string) for token in tokens if token.type == tokenize.COMMENT]


def mentions(text: str) -> Iterator[tuple[str, str]]:
    """Return path and name in it (or "") of each mention of a file or folder of the repository."""
    for token in _TOKEN.findall(_URL.sub(" ", text)):
        path, _, name = token.partition(":")
        path = path.rstrip(".")
        is_ours = path.startswith(tuple(f"{folder}/" for folder in FOLDERS)) or path.endswith((".py", ".md"))
        if is_ours and not path.startswith(("/", "~", ".py", ".md")) and not _has_placeholder(path):
            yield path, name


def _has_placeholder(path: str) -> bool:
    parts = [part for part in path.split("/") if part not in CAPITAL_FILES]
    return bool(re.search(r"[*<>{}$]", path)) or any(re.fullmatch(r"[A-Z][A-Z0-9_]+(\.\w+)?", part) for part in parts)


def found(path: str, said_in: Path) -> Path | None:
    """Return the file or folder that a mention is about; None: there is none."""
    for folder in (ROOT, PACKAGE, said_in.parent):
        if (folder / path).exists():
            return folder / path
    return _by_name().get(path)


@cache
def _by_name() -> dict[str, Path]:
    return {file.name: file for folder in FOLDERS for file in (ROOT / folder).rglob("*.*") if file.is_file()}


def is_known(dotted: str) -> bool:
    """Whether a dotted name is a module's, or can be reached from one."""
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        try:
            owner: Any = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            if not hasattr(owner, part) and part not in getattr(owner, "__annotations__", {}):
                return False
            owner = getattr(owner, part, None)
        return True
    return False


def files() -> list[Path]:
    return [*sorted(PACKAGE.rglob("*.py")), *PAGES]


def test_files_and_folders_that_are_named_exist():
    seen, missing = 0, []
    for file in files():
        for line, text in prose_of(file):
            for path, name in mentions(text):
                seen += 1
                target = found(path, file)
                if target is None:
                    missing.append(f"{file.relative_to(ROOT)}:{line}: {path}")
                elif name and target.is_relative_to(PACKAGE):
                    module = ".".join(target.relative_to(ROOT).with_suffix("").parts)
                    if not is_known(f"{module}.{name}"):
                        missing.append(f"{file.relative_to(ROOT)}:{line}: {path}:{name}")
    assert seen > 100
    assert not missing, "\n".join(missing)


def test_dotted_names_that_are_mentioned_exist():
    seen, missing = 0, []
    for file in files():
        for line, text in prose_of(file):
            for dotted in _DOTTED.findall(_URL.sub(" ", text)):
                seen += 1
                if not is_known(dotted):
                    missing.append(f"{file.relative_to(ROOT)}:{line}: {dotted}")
    assert seen > 10
    assert not missing, "\n".join(missing)


def test_decisions_that_are_named_by_their_number_exist():
    known = {file.name[:3] for file in (ROOT / "docs" / "decisions").glob("*.md")}
    named = [
        (f"{file.relative_to(ROOT)}:{line}", number)
        for file in files()
        for line, text in prose_of(file)
        for number in re.findall(r"[Dd]ecision (\d+)", text)
    ]
    assert named
    assert [each for each in named if each[1] not in known] == []


def test_the_folders_and_files_of_the_architecture_page_exist():
    """Its table names them from the package: `config/`, `records.py`, `labels/schedule.py`."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| \d \| (`[^|]+) \|", page, re.MULTILINE)
    named = [path for cell in cells for path in re.findall(r"`([a-z_/]+(?:/|\.py))`", cell)]
    assert len(named) > 20
    assert [path for path in named if not (PACKAGE / path).exists()] == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lives in `models/iou_branch.py`.", [("models/iou_branch.py", "")]),
        ("(`raydet/train/loop.py:Trainer.run`)", [("raydet/train/loop.py", "Trainer.run")]),
        ("see docs/decisions/, and tests/gpu.", [("docs/decisions/", ""), ("tests/gpu", "")]),
        ("[x](../scaling.md#memory) README.md", [("../scaling.md", ""), ("README.md", "")]),
        ("RUN/report.html CONFIG.yaml docs/methods/NAME.md jobs/configs/*.yaml tests/<x>.py", []),
        ("cells/train.json metrics.jsonl /tmp/x.py https://x.org/raydet/a.py 'tests' a .py file", []),
    ],
)
def test_a_mention_is_told_from_a_file_of_the_users(text: str, expected: list[tuple[str, str]]):
    assert list(mentions(text)) == expected


def test_what_does_not_exist_is_not_found():
    assert found("config/model.py", PACKAGE / "cli.py") is None
    assert found("no_such_file.py", PACKAGE / "cli.py") is None
    assert found("loop.py", PACKAGE / "cli.py") == PACKAGE / "train" / "loop.py"
    assert not is_known("raydet.train.loops") and not is_known("raydet.train.loop.Trainer.no_such_thing")
    assert is_known("raydet.train.loop.Trainer.run") and is_known("raydet.labels")
