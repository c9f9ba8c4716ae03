"""What a run's records say about it so far, as one line or as a panel. Pure: no clock, no thread, no file."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from raydet.metrics import Record, headline, losses_of, mode_of
from raydet.text import clock, percent, plural


@dataclass(slots=True)
class Status:
    """What is known about the run so far."""

    steps: int
    burn_in_steps: int
    start: Record = field(default_factory=dict)
    step: Record = field(default_factory=dict)
    evals: dict[str, Record] = field(default_factory=dict)  # model -> its newest evaluation
    best: tuple[str, float] | None = None  # name and value of the best figure so far
    warnings: deque[Record] = field(default_factory=lambda: deque(maxlen=4))  # alarms and notes
    end: Record = field(default_factory=dict)
    _pace: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=30))  # (time, step) of step records

    def take(self, record: Record) -> None:
        """Take in one record."""
        kind = record["kind"]
        if kind == "start":
            self.start, self.end, self.steps = record, {}, record.get("steps", self.steps)
            self._pace.clear()
        elif kind == "step":
            self.step = record
            self._pace.append((record["time"], record["step"]))
        elif kind == "eval":
            self.evals[record["model"]] = record
            self._compare(record)
        elif kind in ("alarm", "note"):
            self.warnings.append(record)
        elif kind == "end":
            self.end = record

    def _compare(self, record: Record) -> None:
        name, value = next(iter(headline(record).items()))
        if value is not None:
            choose = max if mode_of(name) == "max" else min
            self.best = (name, value if self.best is None else choose(value, self.best[1]))

    @property
    def done(self) -> int:
        """Return how many steps are done."""
        newest = self.step or self.start
        return int(newest["step"]) if newest else 0

    @property
    def eta_s(self) -> float | None:
        """Return the seconds to go at the recent pace, evaluations and checkpoints included."""
        if len(self._pace) < 2:
            seconds = self.step.get("step_s")
            return None if seconds is None else float(seconds * (self.steps - self.done))
        (since, first), (until, last) = self._pace[0], self._pace[-1]
        return (until - since) / max(last - first, 1) * (self.steps - last)


def step_line(status: Status) -> str:
    """Return the newest figures as one line."""
    return "  ".join([f"step {status.done}/{status.steps}", *_training(status), *_labels(status.step)])


def event_line(record: Record) -> str | None:
    """Return a line for a record that deserves one of its own, None for the others."""
    step = record["step"]
    match record["kind"]:
        case "start":
            origin = f"goes on from step {step}" if step else "begins"
            return f"attempt {record['attempt']}: {record['method']} {origin}, {plural(record['world'], 'worker')}"
        case "eval":
            return f"step {step}  {record['split']} {record['model']}: {_figures(record)}"
        case "alarm":
            return f"step {step}  ALARM: {record['message']}"
        case "note":
            return f"step {step}  note: {record['message']}"
        case "end":
            return f"step {step}  training {record['reason']}"
    return None


def panel(title: str, status: Status) -> Panel:
    """Return the panel for a terminal."""
    bar = Table.grid(padding=(0, 1), expand=True)
    bar.add_column(ratio=1)
    bar.add_column(no_wrap=True)
    share = f"{percent(status.done / status.steps)} %"
    bar.add_row(ProgressBar(total=status.steps, completed=status.done), f"{status.done}/{status.steps}  {share}")
    training, labels = "   ".join(_training(status)), "   ".join(_labels(status.step))
    rows: list[RenderableType] = [bar, Text(training or "waiting for the first figures ...")]
    if labels:
        rows.append(Text(labels))
    if any(name.startswith("loss/") for name in status.step):
        rows += [Text(), _Losses(status.step)]
    if status.evals:
        rows += [Text(), Text("\n").join(_eval_lines(status))]
    rows += [
        Text(str(event_line(record)), style="bold red" if record["kind"] == "alarm" else "yellow")
        for record in status.warnings
    ]
    start = status.start
    subtitle = f"attempt {start['attempt']}, {plural(start['world'], 'worker')}" if start else "starting"
    if status.end:
        subtitle += f", {status.end['reason']}"
    heading = Text(f"{start['method']}  {title}" if start else title)
    return Panel(Group(*rows), title=heading, subtitle=Text(subtitle), title_align="left", subtitle_align="left")


def _training(status: Status) -> Iterator[str]:
    """Yield the newest figures of the student, as far as they were written, each with its name."""
    step = status.step
    if "stage" in step:
        ends = [end for end in status.start.get("stage_ends", []) if end >= status.done]
        yield f"{step['stage']} until {min([*ends, status.steps])}"
    elif step and status.done < status.burn_in_steps:
        yield f"burn-in until {min(status.burn_in_steps, status.steps)}"
    if step.get("loss") is not None:
        parts = [(source, _sum(step, source)) for source in _sources(step)]
        detail = " + ".join(f"{source} {value:.3g}" for source, value in parts if value)  # unsup is 0 in the burn-in
        yield f"loss {step['loss']:.3g}" + (f" ({detail})" if detail else "")
    if step.get("images_per_s") is not None:
        speed = step["images_per_s"]
        yield f"{speed:,.0f} images/s" if speed >= 100 else f"{speed:.3g} images/s"
    if status.eta_s is not None and not status.end:
        yield f"ETA {clock(status.eta_s)}"
    if "nonfinite" in step:
        yield f"NOT FINITE: {', '.join(step['nonfinite'])}"


def _labels(step: Record) -> Iterator[str]:
    """Yield the newest figures of the pseudo-labels and of the waits."""
    if step.get("pseudo/boxes_per_image") is not None:
        dropped = [value for name, value in step.items() if name.startswith("gate/") and name.endswith("/dropped")]
        yield f"pseudo-boxes/image {step['pseudo/boxes_per_image']:.2g} kept, {sum(dropped):.3g} dropped"
    if step.get("pseudo/confidence") is not None:
        changed = step.get("pseudo/changed")
        detail = "" if changed is None else f", {percent(changed)} % changed"
        yield f"pseudo-labels: confidence {step['pseudo/confidence']:.3g}, entropy {step['pseudo/entropy']:.2g}{detail}"
    if step.get("labels/age_max") is not None:
        yield f"label age {step['labels/age_mean']:.2g} (max {step['labels/age_max']:g})"
    for name, title in (("label_wait_s", "wait for labels"), ("data_wait_s", "for images")):
        if step.get(name) is not None:
            yield f"{title} {step[name]:.2f} s"


class _Losses:
    """The losses as a table: a column each where there is room, else a row each."""

    def __init__(self, step: Record) -> None:
        losses = losses_of(step)
        self._names = list(dict.fromkeys(name for _, name in losses))
        self._rows: list[tuple[str, str, list[str]]] = []  # source, form, a cell for each name
        for source in _sources(step):
            for form in ("raw", "weighted"):
                values = [step.get(f"loss/{source}/{name}/{form}") for name in self._names]
                if any(values):  # a source has its stages, and is 0 outside them
                    cells = ["-" if value is None else f"{value:.4f}" for value in values]
                    self._rows.append((source, form, cells))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wide = self._wide()
        fits = console.measure(wide, options=options.update(max_width=10_000)).maximum <= options.max_width
        yield wide if fits else self._tall()

    def _wide(self) -> Table:
        table = _table("loss", self._names)
        for source, form, cells in self._rows:
            table.add_row(f"{source} {form}", *cells, style="" if form == "weighted" else "dim")
        return table

    def _tall(self) -> Table:
        forms = ("raw", "weighted")
        table = _table("loss", forms)
        for source in dict.fromkeys(source for source, _, _ in self._rows):
            for place, name in enumerate(self._names):
                found = {form: cells[place] for each, form, cells in self._rows if each == source}
                if any(cell != "-" for cell in found.values()):
                    table.add_row(f"{source} {name}", *(found.get(form, "-") for form in forms))
        return table


def _table(first: str, others: Sequence[str]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _eval_lines(status: Status) -> Iterator[Text]:
    for model, record in status.evals.items():
        yield Text(f"{model:<8} {_figures(record)}  (step {record['step']})")
    if status.best is not None:
        yield Text(f"best {status.best[0]} so far {percent(status.best[1])}")


def _figures(record: Record) -> str:
    return "  ".join(f"{name} {percent(value)}" for name, value in headline(record).items())


def _sources(step: Record) -> list[str]:
    """Return what losses are about, as far as they were written: labelled images (sup), unlabelled ones (unsup), ..."""
    return list(dict.fromkeys(source for source, _ in losses_of(step)))


def _sum(step: Record, source: str) -> float:
    """Return the weighted loss of labelled, of unlabelled or of all images."""
    return sum(step.get(f"loss/{each}/{name}/weighted") or 0.0 for each, name in losses_of(step) if each == source)
