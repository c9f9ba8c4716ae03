"""What a search shows while it runs: a live table on a terminal, a line per event elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from raydet.display import LiveDisplay
from raydet.sweep.definition import read_definition, value_text
from raydet.sweep.live import AT_WORK, Event, LiveSweep, LiveTrial
from raydet.text import clock, percent, plural

STYLES = {"running": "cyan", "burn-in": "cyan", "done": "green", "stopped": "yellow", "failed": "bold red"}
FRAME_LINES = 6  # around the rows: title, head, totals, and room for the cursor


class SweepView(LiveDisplay):
    """Shows a search: its folder, read along."""

    def __init__(self, folder: Path, *, console: Console | None = None) -> None:
        self._sweep = LiveSweep(read_definition(folder))
        super().__init__(interval_s=self._sweep.definition.base.log.plain_interval_s, console=console)
        self._said = ""

    def poll(self) -> Iterator[str]:
        """Look at the folder; what an earlier process left counts as seen."""
        for event in self._sweep.poll():
            if (line := event_line(self._sweep, event)) is not None:
                yield line

    def line(self) -> str | None:
        """Return the totals, where they changed."""
        before, self._said = self._said, totals(self._sweep)
        return self._said if self._said != before else None

    def render(self, height: int) -> RenderableType:
        """Return the table."""
        return screen(self._sweep, max_rows=height - FRAME_LINES)


def event_line(sweep: LiveSweep, event: Event) -> str | None:
    """Return a line for what is worth one, None for the rest."""
    watched, record, metric = event.watched, event.record, sweep.definition.metric
    trial = watched.trial
    if record is None:
        values = sweep.definition.named(trial.values)
        match trial.state:
            case "burn-in":
                return f"trial {trial.id} ({values}) begins" + (" with its burn-in" if trial.burn_in else "")
            case "running":
                return f"trial {trial.id} ({values}) trains"
            case "done":
                return f"trial {trial.id} ({values}) is done: {metric} {percent(watched.figure(metric))}"
            case "stopped" | "failed":
                why = f": {trial.message}" if trial.message else ""
                return f"trial {trial.id} ({values}) {'FAILED' if trial.state == 'failed' else 'stopped'}{why}"
        return None
    if watched.run.metrics.is_judged(record):
        return f"trial {trial.id}  step {record['step']}  {metric} {percent(record.get(metric))}"
    return f"trial {trial.id}  step {record['step']}  ALARM: {record['message']}" if record["kind"] == "alarm" else None


def totals(sweep: LiveSweep) -> str:
    """Return one line about all trials."""
    states = sweep.states()
    order = ("done", "burn-in", "running", "waiting", "stopped", "failed")
    parts = [f"{states[state]} {state}" for state in order if states[state]]
    line = [f"{plural(states.total(), 'trial')}: {', '.join(parts)}" if parts else "no trials yet"]
    if (best := sweep.best()) is not None:
        values = sweep.definition.named(best.trial.values)
        line.append(f"best {sweep.definition.metric} {percent(best.figure(sweep.definition.metric))} ({values})")
    if (eta := sweep.eta_s()) is not None and states["waiting"] + sum(states[state] for state in AT_WORK):
        line.append(f"ETA about {clock(eta)}")
    return "   ".join(line)


def screen(sweep: LiveSweep, *, max_rows: int) -> RenderableType:
    """Return the table for a terminal: those at work, then the failed, then the best, as many as fit."""
    definition = sweep.definition
    ranked = sorted(sweep.trials.values(), key=lambda watched: _rank(sweep, watched))
    shown = ranked[: max(max_rows, 1)]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", title_justify="left")
    table.add_column("trial", no_wrap=True)
    for name in definition.short_names().values():
        table.add_column(Text(name), justify="right")
    for name in ("step", definition.metric):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("ETA", justify="right", no_wrap=True)
    best = sweep.best()
    for watched in shown:
        table.add_row(*_cells(sweep, watched), style="bold" if watched is best else "")
    rest = len(ranked) - len(shown)
    more = [Text(f"... and {rest} more", style="dim")] if rest else []
    title = Text(f"{definition.name}  {definition.folder}", style="bold", overflow="ellipsis", no_wrap=True)
    return Group(title, table, *more, Text(totals(sweep)))


def _rank(sweep: LiveSweep, watched: LiveTrial) -> tuple[int, float, str]:
    order = {"running": 0, "burn-in": 1, "failed": 2, "done": 3, "stopped": 4, "waiting": 5}
    figure = watched.figure(sweep.definition.metric)
    is_ranked = watched.trial.state in ("done", "stopped") and figure is not None
    return order[watched.trial.state], -sweep.definition.sign * (figure or 0.0) if is_ranked else 0.0, watched.trial.id


def _cells(sweep: LiveSweep, watched: LiveTrial) -> Sequence[Text]:
    state, run = watched.trial.state, sweep.run_at_work(watched)
    step = f"{run.metrics.step}/{run.metrics.steps}" if run.metrics.steps else "-"
    eta = clock(run.eta_s) if state in AT_WORK and run.eta_s is not None else ""
    values = [value_text(watched.trial.values.get(key)) for key in sweep.definition.keys]
    cells = [watched.trial.id, *values, step, percent(watched.figure(sweep.definition.metric))]
    return [*map(Text, cells), Text(state, style=STYLES.get(state, "dim")), Text(eta)]
