"""The section of errors by kind, of one run's page and of the page that compares runs."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest

from raydet.families.detection.report import errors
from raydet.families.detection.report.inputs import read_inputs
from raydet.families.detection.tide import KINDS, NAMES
from raydet.report.compare.runs import read_runs
from raydet.report.page import Pictures, Section
from tests.run_folders import write_run


def with_errors(folder: Path, gains: list[float | None] | None, **changes: object) -> Path:
    """A run whose last evaluation, of its teacher, has these gains by kind."""
    run = write_run(folder, **changes)  # type: ignore[arg-type]
    if gains is not None:
        *before, last = (folder / "metrics.jsonl").read_text().splitlines()
        tide = {"gains": dict(zip(NAMES, gains, strict=True)), "counts": dict.fromkeys(KINDS, 1234)}
        (folder / "metrics.jsonl").write_text("\n".join([*before, json.dumps({**json.loads(last), "tide": tide}), ""]))
    return run.folder


def visible(section: Section) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", "".join(section.body))).split())


GAINS = [0.034, 0.0645, 0.0, 0.002, 0.0415, 0.0689, 0.168, None]


def test_a_runs_page_lists_and_draws_what_each_kind_costs(tmp_path: Path):
    run = read_inputs(with_errors(tmp_path / "run", GAINS), lambda label: label)
    pictures = Pictures()
    text = visible(errors.section(run, pictures))
    assert "teacher, step 8: points of AP50 3.4 6.5 0.0 0.2 4.2 6.9 16.8 -" in text
    assert "teacher, step 8: number 1,234" in text and pictures.files["errors.png"].startswith(b"\x89PNG")


def test_runs_stand_side_by_side_as_means_over_their_seeds(tmp_path: Path):
    # The mean of 3.4 and 5.4 is 4.4; where one is undefined, of the others.
    more = [0.054, *GAINS[1:-1], 0.2]
    folders = [
        with_errors(tmp_path / "a", GAINS, seed=0),
        with_errors(tmp_path / "b", more, seed=1),
        with_errors(tmp_path / "c", None, method="supervised"),
    ]
    pictures = Pictures()
    text = visible(errors.compared_section(read_runs(folders), pictures))
    assert "il_net 4.4 6.5 0.0 0.2 4.2 6.9 16.8 20.0" in text
    assert "The evaluations of c hold no errors by kind" in text and "compare_errors.png" in pictures.files


@pytest.mark.parametrize("figures", [{}, {8: ("teacher", 0.3)}])
def test_runs_without_errors_say_why(tmp_path: Path, figures: dict[int, tuple[str, float]]):
    run = read_inputs(with_errors(tmp_path / "run", None, figures=figures), lambda label: label)
    pictures = Pictures()
    text = visible(errors.section(run, pictures))
    assert ("hold no errors by kind" if figures else "There was no evaluation") in text and not pictures.files
