"""The comparison as a table: the same rows for the terminal and for the page."""

from __future__ import annotations

from raydet.metrics import headline
from raydet.report.compare.runs import Compared
from raydet.report.gain import have_same_views, other_listing
from raydet.report.inputs import RunRecords
from raydet.report.lineage import is_control
from raydet.text import aligned, percent, plural, signed_percent

NO_PAIRS = (
    "No two of these runs are a pair, so seeds and settings are part of what they differ by. A pair goes on from the "
    "same checkpoint (run.fork_from), or has the same seed, the same labelled images and the same settings of data, "
    "model, optimiser and burn-in (method.burn_in_steps)."
)


def run_rows(compared: Compared) -> tuple[list[str], list[list[str]]]:
    """Return columns and a row per run: what it is, its last figures in percent, its gain over its control."""
    figures = list(headline(compared.runs[0].judged[-1]))
    columns = ["run", "method", "seed", "step", "model", *figures]
    has_pairs = bool(compared.pairs)
    gains = {pair.run.folder: pair.gain.difference for pair in compared.pairs}
    rows = []
    for run in compared.runs:
        last = run.judged[-1]
        row = [compared.names[run.folder], compared.arm_of(run).name, str(run.config.seed), str(last["step"])]
        row += [last["model"], *(percent(last.get(name)) for name in figures)]
        rows.append(row + ([signed_percent(gains.get(run.folder))] if has_pairs else []))
    return columns + (["gain"] if has_pairs else []), rows


def verdicts(compared: Compared) -> list[str]:
    """Return a sentence per arm that has pairs."""
    return [
        f"{arm.name} against {compared.baseline}: {paired.as_text(compared.figure)}" for arm, paired in compared.paired
    ]


def cautions(compared: Compared) -> list[str]:
    """Return what the reader should know before believing the differences."""
    found = []
    unlike = [pair for pair in compared.pairs if not pair.gain.is_like_with_like]
    if unlike:
        found.append(
            f"{_named(compared, [pair.run for pair in unlike])}: a teacher's figure stands beside a student's; "
            f"averaging the weights alone changes {compared.figure} by points. A fair control keeps an average too."
        )
    others = [
        pair.run for pair in compared.pairs if is_control(pair.control) and not have_same_views(pair.run, pair.control)
    ]
    if others:
        found.append(
            f"{_named(compared, others)}: the control sees labelled images through other views, which alone change "
            f"{compared.figure}: how much of the difference is due to the unlabelled ones cannot be said."
        )
    found += _other_listings(compared)
    ends = {run.points[-1][0] for run in compared.runs}
    if len(ends) > 1:
        found.append(
            f"The runs end at different steps ({', '.join(map(str, sorted(ends)))}); a gain is taken at the last step "
            f"that both runs of its pair were evaluated at."
        )
    in_pairs = [run for pair in compared.pairs for run in (pair.run, pair.control)]
    unpaired = [run for run in compared.runs if run not in in_pairs]
    if compared.pairs and unpaired:
        found.append(f"Without a pair among these: {_named(compared, unpaired)}.")
    return found if compared.pairs else [*found, NO_PAIRS]


def _other_listings(compared: Compared) -> list[str]:
    """Return a sentence per way in which labelled images are listed otherwise than in what a run is compared with."""
    runs: dict[str, list[RunRecords]] = {}
    for pair in compared.pairs:
        if (how := other_listing(pair.run, pair.control)) is not None:
            runs.setdefault(how, []).append(pair.run)
    who, cause = f"{compared.baseline},", "anything else"
    if compared.has_controls:
        who, cause = compared.baseline, "the unlabelled ones"
    return [
        f"{_named(compared, those)}: {who} lists labelled images {how}: that alone changes {compared.figure}, and how "
        f"much of the difference is due to {cause} cannot be said."
        for how, those in runs.items()
    ]


def as_text(compared: Compared) -> str:
    """Return the comparison for a terminal."""
    columns, rows = run_rows(compared)
    kind = compared.runs[0].config.trains
    head = (
        f"raydet: {plural(len(compared.runs), kind)} on {plural(compared.val_images, 'validation image')}, figures in "
        f"percent"
    )
    lines = [head, "", *aligned([columns, *rows], left=2), ""]
    return "\n".join([*lines, *verdicts(compared), *(f"note: {text}" for text in cautions(compared))])


def _named(compared: Compared, runs: list[RunRecords]) -> str:
    return ", ".join(compared.names[run.folder] for run in runs)
