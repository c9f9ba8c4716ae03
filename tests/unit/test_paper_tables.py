"""Each method's page says which command makes which table and figure of its paper: every command is one, and means runs
that can be started where the data lies."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from raydet.cli import parsed
from raydet.commands.tune import home_of, split_words
from raydet.config.run import RunConfig
from raydet.report.lineage import are_alike
from raydet.settings import load, resolve
from raydet.sweep.plan import trials_of
from raydet.sweep.points import check_points, points_of
from raydet.sweep.space import load_sweep, only_seeds

ROOT = Path(__file__).parents[2]
TITLE = "## The paper's tables and figures"
PAGES = {
    page.stem: page
    for page in sorted((ROOT / "docs" / "methods").glob("*.md"))
    if TITLE in page.read_text(encoding="utf-8")
}
# What a page must have a command for: all of its paper's tables and figures in which something was measured. Unbiased
# Teacher's page goes by what was trained.
WANTED = {
    "il_net": [f"Table {n}" for n in range(1, 6)]
    + [f"Fig. {n}" for n in ("1a", "1b", "1c", "1d", "3a", "3b", "3c", "3d")],
    "r2d2": ["Fig. 2", *(f"Table {n}" for n in range(1, 5))]
    + [f"Table {n}, {row}" for n in range(5, 9) for row in ("100 %", "Mean Teacher", "R2-D2")],
    "unbiased_teacher": ["COCO-standard", "labelled images only", "COCO-additional", "Pascal VOC"],
    "gradient_sampling": [*(f"Table {n}" for n in range(1, 6)), *(f"Fig. {n}" for n in range(1, 8))],
    "lchp": [*(f"Table {n}" for n in range(1, 7)), *(f"Table {n}, LCHP-I and LCHP-R" for n in (2,)), "Table 1, CAM"],
    "adept": [f"Table {n}" for n in range(1, 5)]
    + ["Table 1, scratch", "Table 1, supervised", "Table 1, 1 %"]
    + ["Table 1, 10 %", "Table 1, SODA10M"],
    "soft_teacher": ["COCO, 10 %", "labelled images only"],
    "long_tail_baselines": ["logit adjustment", "classifier retraining", "EQLv2", "repeat factor sampling"],
}


def rows_of(page: Path) -> list[tuple[str, list[str]]]:
    """The rows of a page's table: what is made, and the commands."""
    lines = page.read_text(encoding="utf-8").split(TITLE)[1].split("\n## ")[0].splitlines()
    table = [line for line in lines if line.startswith("|")][2:]  # behind the head and its rule
    found = []
    for line in table:
        what, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        assert len(cells) == 2, f"{page.name}: {what} has no command in full and in small"
        found.append((what, [command for cell in cells for command in re.findall(r"`(raydet [^`]*)`", cell)]))
    return found


LISTED = sorted({command for page in PAGES.values() for _, commands in rows_of(page) for command in commands})
COMMANDS = [
    pytest.param(command, id=f"{page.stem}-{number}")
    for page in PAGES.values()
    for number, command in enumerate(dict.fromkeys(c for _, commands in rows_of(page) for c in commands))
    if not command.startswith("raydet report ")
]


def resolved(command: str) -> list[RunConfig]:
    """Every run that a command means, as `raydet` itself reads it."""
    _, *words = shlex.split(command)
    arguments = parsed(words)
    if words[0] == "train":
        return [load(ROOT / arguments.config, arguments.overrides)]
    assert words[0] == "tune", command
    space, overrides = split_words(arguments.overrides)
    base = load(ROOT / arguments.config, overrides)
    sweep = only_seeds() if space is None else load_sweep(ROOT / space)
    assert space is not None or len(arguments.seeds) > 1, f"{command}: nothing varies"
    if arguments.metric is not None:
        assert arguments.metric in base.figures, command
    else:
        sweep.judged_by(base)
    points = points_of(sweep)
    tree = base.model_dump(mode="json")
    check_points(tree, points, where=command)
    trials = trials_of(points, sweep, base, arguments.seeds or [base.seed])
    return [resolve(tree, trial.overrides, where=command) for trial in trials]


def folder_of(command: str) -> Path:
    """Where the run, or the search, of a command lies."""
    _, *words = shlex.split(command)
    arguments = parsed(words)
    if words[0] == "train":
        return Path(load(ROOT / arguments.config, arguments.overrides).run.dir).absolute()
    space, overrides = split_words(arguments.overrides)
    name = "seeds" if space is None else Path(space).stem
    return home_of(load(ROOT / arguments.config, overrides).run.dir, name, overrides)


def test_every_command_has_a_folder_of_its_own_and_reports_are_of_these() -> None:
    by_folder: dict[Path, list[str]] = {}
    for command in LISTED:
        if not command.startswith("raydet report "):
            by_folder.setdefault(folder_of(command), []).append(command)
    assert [commands for commands in by_folder.values() if len(commands) > 1] == []  # the later one would be refused
    reports = [shlex.split(command)[2:] for command in LISTED if command.startswith("raydet report ")]
    assert reports == [["runs/adept_coco_tuned"], ["runs/adept_foda_tuned"]]
    assert all(Path(folder).absolute() in by_folder for (folder,) in reports)


@pytest.mark.parametrize("method", ["soft_teacher", "unbiased_teacher"])
def test_the_run_on_labelled_images_only_is_found_as_the_control_of_the_first_row(method: str) -> None:
    rows = dict(rows_of(PAGES[method]))
    first, only = next(iter(rows.values())), rows["labelled images only"]
    for column in (0, 1):
        (run,), (control,) = resolved(first[column]), resolved(only[column])
        assert not control.uses_labels
        assert are_alike(control, run), only[column]
        assert control.method.keep_rate == run.method.keep_rate, only[column]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_a_papers_table_can_be_run(command: str) -> None:
    runs = resolved(command)
    assert len(runs) > ("tune" in command.split())
    assert all(run.data.has_val for run in runs), "nothing would be measured"


@pytest.mark.parametrize("method", list(WANTED))
def test_every_table_and_figure_of_a_paper_has_its_row_with_a_command(method: str) -> None:
    page = PAGES[method]
    rows = rows_of(page)
    for wanted in WANTED[method]:
        mine = [commands for what, commands in rows if re.search(rf"{re.escape(wanted)}(?![0-9a-z])", said(what))]
        assert mine, f"{page.name}: no row for {wanted}"
        assert all(mine), f"{page.name}: {wanted} has no command"


def said(what: str) -> str:
    """`Fig. 1a, 1b` as `Fig. 1a, Fig. 1b`."""
    return re.sub(r"(?<=, )(\d[a-d])", r"Fig. \1", what)


def test_the_full_commands_say_what_the_paper_trained() -> None:
    by_row = {what: [resolved(command) for command in commands] for what, commands in rows_of(PAGES["r2d2"])}
    only = {"Table 5, 10 % only": 30_000, "Table 6, 10,000 labels only": 75_000, "Table 7, 4000 labels only": 30_000}
    for row, steps in {**only, "Table 8, 1000 labels only": 7_500}.items():
        full = by_row[row][0]
        assert {run.last_step for run in full} == {run.method.burn_in_steps for run in full} == {steps}, row
    for row, runs in by_row.items():
        if row.startswith("Table ") and "R2-D2" in row:
            assert len({run.data.split_seed for run in runs[0]}) == len(runs[0]) >= 3, f"{row}: draws of the labels"
            assert all(run.optim.precision == "fp32" for run in runs[0]), row


def test_all_starts_of_adepts_tables_are_fine_tuned_by_one_recipe() -> None:
    tuned = [
        (command, run)
        for _, commands in rows_of(PAGES["adept"])
        for command in commands
        if any(f"jobs/configs/{name}" in command for name in ("mask_rcnn", "supervised_coco", "cascade", "fewshot"))
        for run in resolved(command)
    ]
    assert len(tuned) >= 6 + 15  # rows of Table 1, cells of Table 2
    for command, run in tuned:
        views = run.data.views
        assert (views.color_jitter, views.grayscale, views.blur, *views.erase) == (0, 0, 0, 0, 0, 0), command
        assert run.model.roi_cls_loss == "cross_entropy", command
        assert run.method.burn_in_steps == run.last_step, f"{command}: an average of the weights is judged"
        if "init_from=runs" in command and "fewshot" not in command:
            assert run.optim.weight_decay == 2.5e-5, command


@pytest.mark.parametrize(
    ("space", "values"),
    [
        ("beta", {0.3: 26.5, 0.5: 26.5, 1.0: 25.8}),  # Table 1, AP of all classes
        ("gamma", {0.1: 26.4, 0.5: 26.5, 1.0: 26.3}),
        ("samplers", {"random, random": 25.5, "rfs, random": 25.8, "rfs, rfs": 26.0, "rfs, crs": 26.5}),
        ("hosts", {"Unbiased Teacher": 22.3, "+ ours": 24.7}),
        ("baselines", {"logit adjustment": 24.6, "classifier retraining": 24.5, "ours": 26.5}),
    ],
)
def test_what_gradient_sampling_is_compared_with_is_what_its_paper_says(
    space: str, values: dict[float | str, float]
) -> None:
    published = load_sweep(ROOT / f"tune_spaces/gradient_sampling_{space}.py").published
    assert published is not None and dict(published.values) == values
    (command,) = [
        c for c in LISTED if f"gradient_sampling_{space}.py" in c and "coco_split1" in c and "--seeds" not in c
    ]
    runs = resolved(command)
    if space in ("beta", "gamma"):  # the values of the axis are those that are trained
        key = {"beta": "labeled_weight_exponent", "gamma": "crs_repeat_threshold_max"}[space]
        assert {getattr(run.method, key) for run in runs} == set(values)
    else:
        assert len(runs) == len(values)


LONG_TAIL = "jobs/configs/gradient_sampling_foda.yaml"
RHYTHM = {  # key -> the switch that it is for
    "burn_in_steps": None,
    "ema_keep_rate": None,
    "gbr_ema": "gbr_enabled",
    "weight_logits_lr": "gbr_enabled",
    "gbr_warmup_steps": "gbr_enabled",
    "gbt_warmup_steps": "gbt_enabled",
}
SMALL = [c for page in PAGES.values() for _, commands in rows_of(page) for c in commands if LONG_TAIL in c]


@pytest.mark.parametrize("command", sorted(set(SMALL)))
def test_rows_on_small_long_tailed_data_keep_the_rhythm_of_their_preset(command: str) -> None:
    preset = load(ROOT / LONG_TAIL).method
    for run in resolved(command):
        for key, switch in RHYTHM.items():
            if hasattr(run.method, key) and (switch is None or getattr(run.method, switch)):
                assert getattr(run.method, key) == getattr(preset, key), f"{key} of {run.method.name}"
        if (start := getattr(run.method, "retrain_from_step", None)) is not None:
            # The last fifth of what follows the burn-in: 2,000 + (2,600 - 2,000) * 4 / 5.
            assert start == 2480


def test_presets_of_published_runs_are_fp32_where_the_code_that_they_follow_is() -> None:
    presets = {file.stem: load(file) for file in (ROOT / "jobs" / "configs").glob("*.yaml")}
    mixed = {name for name, config in presets.items() if config.optim.precision != "fp32"}
    small = {name for name in mixed if name == "quickstart" or name.endswith(("_foda", "_cards", "_bccd"))}
    of_soft_teacher = {
        "soft_teacher_coco10",
        *(f"gradient_sampling_{data}" for data in ("coco_split1", "lvis", "objects365")),
    }
    assert mixed - small == {"adept_coco", "soco_coco", *of_soft_teacher}


@pytest.mark.parametrize("file", sorted((ROOT / "jobs" / "configs").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_preset_is_a_configuration_and_ends_where_its_arithmetic_does(file: Path) -> None:
    config = load(file)
    assert config.data.has_val
    text = file.read_text(encoding="utf-8")
    if sum_of_stages := re.search(r"= ([\d,]+)\.\nrun:", text):  # "30,000 + 35,700 + 35,700 + 4,850 = 106,250."
        assert int(sum_of_stages.group(1).replace(",", "")) == config.length
