"""Writing the recommended thresholds into a config file, which otherwise stays as it is."""

from __future__ import annotations

import codecs
import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raydet.config.edit import with_values
from raydet.config.load import read_yaml
from raydet.errors import ConfigError, UserError
from raydet.families.detection.method import Thresholds, detection_method
from raydet.families.detection.thresholds.inputs import run_folder_of
from raydet.families.detection.thresholds.result import ThresholdResult
from raydet.files import replacing
from raydet.settings import load, resolve


@dataclass(frozen=True, slots=True)
class Target:
    """A config file that can take a run's thresholds, and where the changed one goes."""

    file: Path
    out: Path


def open_target(file: str, out: str | None, run: str, *, per_class: bool = False) -> Target:
    """Look at a config file before thresholds are computed for it, which may take a while.

    Raises UserError where it is none, is of another method than the run, or is not to be written over; with `per_class`
    where the method has one score threshold for all classes.
    """
    source, target = Path(file), Path(out or file)
    config, folder = load(source), run_folder_of(Path(run))
    trained = folder.load_config()
    if config.method.name != trained.method.name:
        raise ConfigError(
            f"--apply {source}: method.name={config.method.name}, but {folder.path} was trained with method.name="
            f"{trained.method.name}: thresholds of one method say nothing about another's; give a config of the same"
        )
    theirs, own = (detection_method(each, "raydet thresholds").thresholds for each in (config, trained))
    if theirs != own:
        raise ConfigError(
            f"--apply {source}: its method has the thresholds {_keys(theirs)}, that of {folder.path} {_keys(own)}; "
            f"give a config with the same gates switched on"
        )
    if per_class and (own is None or own.by_class is None):
        raise ConfigError(
            f"--per-class: method.name={config.method.name} has no score thresholds of single classes to set; leave it "
            f"out, or use unbiased_teacher or il_net"
        )
    if out is None and (source.resolve().parent / "config.json").is_file():
        raise ConfigError(
            f"--apply {source}: it is the record of what a run was trained with; write a new file with --out NEW.yaml"
        )
    if out is not None and target.exists():
        raise ConfigError(f"--out {target}: exists already; choose another name, or leave --out away to change {file}")
    return Target(source, target)


def apply(result: ThresholdResult, target: Target, *, per_class: bool = False) -> str:
    """Write the recommendation into the target and return what changed, as a diff.

    `per_class`: with a score threshold for each class that wants another one than the rest; classes of which nothing
    can be said keep what the file gives them. Without it, one for all, whatever the file says of single classes.

    Raises UserError where there is no recommendation, the file would no longer be a valid configuration (nothing is
    written then), or it cannot be written.
    """
    if result.choice is None:
        raise UserError(f"--apply {target.file}: there is no recommendation to write, so it was left as it is")
    content = target.file.read_bytes()
    mark = codecs.BOM_UTF8 if content.startswith(codecs.BOM_UTF8) else b""
    old = content.removeprefix(mark).decode()
    values = _values(result, target, per_class=per_class)
    new = with_values(old, values, str(target.file))
    resolve(read_yaml(new, str(target.file)), {}, where=f"{target.file} with {values}")
    if new == old and target.out == target.file:
        return f"{target.file} has the recommended thresholds already"
    try:
        with replacing(target.out.resolve()) as stream:  # through a link, which stays one
            stream.write(mark + new.encode())
    except OSError as error:
        raise UserError(f"{target.out}: cannot be written: {error.strerror}") from None
    lines = difflib.unified_diff(
        old.splitlines(), new.splitlines(), str(target.file), str(target.out), lineterm="", n=2
    )
    return "\n".join([*lines, f"written: {target.out}"])


def _values(result: ThresholdResult, target: Target, *, per_class: bool) -> dict[str, Any]:
    """Return what to set, by key: of single classes only where there is something to say or to take away."""
    values, key = result.recommended(per_class=per_class), result.axes.thresholds.by_class
    if key is None:
        return values
    before = load(target.file).model_dump()["method"][key.removeprefix("method.")]
    kept = {name: value for name, value in before.items() if per_class and name in result.undecided}
    of_classes = kept | values.pop(key, {})
    return values | ({key: of_classes} if before or of_classes else {})


def _keys(thresholds: Thresholds | None) -> str:
    names = [] if thresholds is None else [thresholds.score, *([thresholds.quality] if thresholds.quality else [])]
    return " and ".join(names) or "(none)"
