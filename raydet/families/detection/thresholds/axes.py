"""The axes of a threshold grid: which values to try, and a method's selection at each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from raydet.errors import ConfigError
from raydet.families.detection.config import DetectionConfig
from raydet.families.detection.method import Thresholds, detection_method
from raydet.families.detection.thresholds.count import Select
from raydet.records import PseudoBoxes
from raydet.settings import resolve

SCORES = (*(i / 20 for i in range(1, 20)), 0.97, 0.99)
QUALITIES = tuple(i / 20 for i in range(1, 20))
HOW = "write NAME=0.5,0.6,0.7 or NAME=START:STOP:COUNT, e.g. score=0.3:0.9:13"
MOST = 10_000  # points of a grid


@dataclass(frozen=True, slots=True)
class Axes:
    """The values to try, ascending; the run's own setting is always among them."""

    thresholds: Thresholds
    scores: tuple[float, ...]
    qualities: tuple[float, ...]  # empty: the method has no quality threshold
    score: float  # the run's own setting
    quality: float | None
    of_classes: Mapping[str, float] = field(default_factory=dict)  # the run's own score thresholds of single classes

    def settings(
        self, score: float, quality: float | None, of_classes: Mapping[str, float] | None = None
    ) -> dict[str, Any]:
        """Return a setting by the keys of the configuration; one for all classes but `of_classes`."""
        found: dict[str, Any] = {self.thresholds.score: score}
        if self.thresholds.quality is not None and quality is not None:
            found[self.thresholds.quality] = quality
        if self.thresholds.by_class is not None and (of_classes or self.of_classes):
            found[self.thresholds.by_class] = dict(of_classes or {})
        return found


def read_axes(config: DetectionConfig, thresholds: Thresholds, words: Sequence[str] = ()) -> Axes:
    """Read `--grid`; what it leaves out gets the default grid. Raises ConfigError for what cannot be meant.

    The score axis cannot go below `labels.score_floor`: nothing is stored there.
    """
    names = {"score": thresholds.score} | ({"quality": thresholds.quality} if thresholds.quality else {})
    given: dict[str, tuple[float, ...]] = {}
    for word in words:
        name, _, text = word.partition("=")
        name = next((short for short, key in names.items() if name in (short, key)), name)
        if name not in names:
            allowed = " and ".join(f"{short} ({key})" for short, key in names.items())
            raise ConfigError(f"--grid {word}: method.name={config.method.name} has the thresholds {allowed}; {HOW}")
        if name in given:
            raise ConfigError(f"--grid {word}: {name} is given twice; give all its values at once")
        given[name] = _values(word, text)
    section, _, key = thresholds.floor.partition(".")
    floor = float(config.model_dump(mode="json")[section][key])
    if min(given.get("score", (1.0,))) < floor:
        raise ConfigError(
            f"--grid: score={min(given['score']):g} is below {thresholds.floor}={floor:g}: nothing is stored "
            f"there, so nothing can be said; try values from {floor:g} on, or train with a lower {thresholds.floor}"
        )
    own = config.model_dump()["method"]
    score = own[thresholds.score.removeprefix("method.")]
    scores = given.get("score", tuple(value for value in SCORES if value >= floor))
    quality, qualities = None, ()
    if thresholds.quality is not None:
        quality = own[thresholds.quality.removeprefix("method.")]
        qualities = tuple(sorted({*given.get("quality", QUALITIES), quality}))
    of_classes = {} if thresholds.by_class is None else own[thresholds.by_class.removeprefix("method.")]
    scores = tuple(sorted({*scores, score, *of_classes.values()}))
    if len(scores) * max(1, len(qualities)) > MOST:
        raise ConfigError(f"--grid: {len(scores)} x {len(qualities)} points; at most {MOST} are computed at once")
    return Axes(thresholds, scores, qualities, score, quality, of_classes)


def selections(config: DetectionConfig, axes: Axes) -> list[tuple[float | None, Select]]:
    """Return the method's own selection at each quality threshold, with the lowest score threshold for all classes."""
    return [(each, selection(config, axes.settings(axes.scores[0], each))) for each in axes.qualities or (None,)]


def selection(config: DetectionConfig, settings: Mapping[str, Any]) -> Select:
    """Return what the configured method keeps of a label with other settings, by dotted key."""
    method = detection_method(resolve(config.model_dump(mode="json"), settings), "trying thresholds")

    def select(label: PseudoBoxes) -> PseudoBoxes:
        return method.select(label).kept

    return select


def _values(word: str, text: str) -> tuple[float, ...]:
    try:
        if ":" in text:
            start, stop, count = text.split(":")
            number = int(count)
            if not 1 <= number <= MOST:
                raise ConfigError(f"--grid {word}: COUNT must be 1 to {MOST}; {HOW}")
            values = [round(float(value), 6) for value in np.linspace(float(start), float(stop), number)]
        else:
            values = [float(value) for value in text.strip("[]").split(",")]
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"--grid {word}: not a list of numbers; {HOW}") from None
    wrong = [value for value in values if not 0 < value < 1]
    if wrong:
        raise ConfigError(f"--grid {word}: thresholds lie between 0 and 1, exclusive; {wrong[0]:g} does not; {HOW}")
    return tuple(values)
