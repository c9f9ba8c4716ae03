"""What can be done with a finished or running run: evaluate it, export its model, report on it."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import torch
from torch import nn

from raydet.cluster.process import flushing, keep_freed_memory
from raydet.config.paths import check_lasts
from raydet.config.run import RunConfig
from raydet.contract import Method, Result
from raydet.contract.family import AnyMethod, Config, Model
from raydet.errors import CheckpointError, DataError, UserError
from raydet.faults import storage_error
from raydet.files import replacing_path
from raydet.group import Group
from raydet.registry import build_method, family_of
from raydet.text import plural
from raydet.train.checkpoint import Checkpoint, folder_of, latest_checkpoint, open_checkpoint, save_tensors
from raydet.train.going_back import diverged_since, healthy_step
from raydet.train.rundir import RunFolder
from raydet.vision.pretrained import architecture_only
from raydet.vision.weights import load_weights


@dataclass(frozen=True, slots=True, eq=False)
class Saved(Generic[Config, AnyMethod, Model]):
    """A model read back from a checkpoint."""

    config: Config
    method: AnyMethod
    model: Model
    class_names: tuple[str, ...]
    role: str  # teacher or student
    checkpoint: Checkpoint


SavedModel = Saved[RunConfig, Method[Any, Any], nn.Module]
"""A model of any family."""


def load_saved(path: Path, *, role: str | None = None) -> SavedModel:
    """Load the newest model of a run folder, or the one of a checkpoint folder; the teacher where there is one.

    Raises CheckpointError where there is none, or not of this role.
    """
    path = path.absolute()
    if (path / "config.json").is_file():
        folder = RunFolder(path)
        checkpoint = latest_checkpoint(folder.checkpoints)
        if checkpoint is None:
            raise CheckpointError(f"{path}: no checkpoint yet")
        checkpoint = _healthy(folder, checkpoint)
        for problem in checkpoint.passed_over:
            print(f"raydet: warning: an older checkpoint is used: {problem}", file=sys.stderr)
    elif path.is_dir():
        checkpoint = open_checkpoint(path)
        folder = RunFolder(path.parent.parent)
    else:
        raise CheckpointError(f"{path}: neither a run folder (with config.json) nor a checkpoint folder")
    config = folder.load_config()
    if role is None:
        role = "teacher" if checkpoint.has("teacher") else "student"
    if not checkpoint.has(role):
        why = "the teacher exists from the burn-in's end on, and not with every method"
        raise CheckpointError(f"{checkpoint.path}: has no {role} ({why})")
    names = tuple(checkpoint.state["class_names"])
    method = build_method(config)
    with architecture_only():
        model = method.build_model(len(names))
    load_weights(model, checkpoint.tensors(role))
    return Saved(config, method, model.eval(), names, role, checkpoint)


def _healthy(folder: RunFolder, newest: Checkpoint) -> Checkpoint:
    """Return the newest checkpoint, or where that was written by a run that had diverged one from before, if any."""
    if diverged_since(folder, newest) is None:
        return newest
    step = healthy_step(folder)
    print(
        f"raydet: warning: {newest.path} was written after the run had diverged; "
        + (f"the one of step {step} is used" if step else "there is none from before, so it is used all the same"),
        file=sys.stderr,
    )
    return open_checkpoint(folder_of(folder.checkpoints, step)) if step else newest


def evaluate_saved(path: Path, *, data: Mapping[str, str] | None, split: str, role: str | None) -> Result:
    """Return the figures of a saved model on its run's own val or test set, or on any other data set: see
    `Family.open_set`."""
    return evaluate_model(load_saved(path, role=role), data=data, split=split)


def evaluate_model(saved: SavedModel, *, data: Mapping[str, str] | None, split: str, proposals: bool = False) -> Result:
    """Do the same for a model already loaded; with `proposals` for its region proposals alone."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    index = index_for(saved, data, split)
    family = family_of(saved.config)
    evaluate = family.evaluate_proposals if proposals else family.evaluate
    keep_freed_memory()
    with flushing():
        result = evaluate(saved.method, saved.model.to(device), index, Group(device=device), max_images=None)
    assert result is not None
    return result


def index_for(saved: SavedModel, data: Mapping[str, str] | None, split: str) -> Any:
    """Return the images to evaluate on. Raises DataError where there are none."""
    family, folder = family_of(saved.config), saved.checkpoint.path.parent.parent
    if data is not None:
        place = scratch(folder / "data", "evaluate")
        return family.open_set(data, place, class_names=saved.class_names, config=saved.config)
    sets = family.open(folder / "data")
    index = getattr(sets, split)
    if index is None:
        raise DataError(f"{folder}: the run's configuration names no data.{split}; give a data set with --data")
    family.check_sources(saved.config, sets, split)
    return index


def scratch(data: Path, name: str) -> Path:
    """Return where an index is put that is needed now: in a run's data folder, or elsewhere where that is read-only."""
    if os.access(data, os.W_OK):
        return data / name
    aside = Path(tempfile.mkdtemp(prefix=f"raydet-{name}-"))
    atexit.register(shutil.rmtree, aside, ignore_errors=True)
    return aside


def export(path: Path, out: Path, *, role: str | None = None, size: str | None = None, overwrites: bool = False) -> str:
    """Write a model file: .safetensors that plain torchvision loads, or .onnx checked against PyTorch.

    `size`, HEIGHTxWIDTH, is for an ONNX file that takes one image of that size only. Raises UserError where `out` is
    there already, unless `overwrites`.
    """
    if out.suffix not in (".safetensors", ".onnx"):
        raise UserError(f"--out {out}: expected a name that ends in .safetensors or .onnx")
    check_lasts(out, "--out")
    if out.is_dir():
        raise UserError(f"--out {out}: is a folder; give the name of a file")
    if out.exists() and not overwrites:
        raise UserError(f"--out {out}: exists already and is not overwritten; give another name, or add --overwrite")
    is_onnx = out.suffix == ".onnx"
    if size is not None and not is_onnx:
        raise UserError(f"--size {size}: only for FILE.onnx; the weights in {out.name} take images of any size")
    saved = load_saved(path, role=role)
    export_onnx = family_of(saved.config).onnx_exporter(saved) if is_onnx else None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = storage_error(out, error) or error.strerror
        raise UserError(f"--out {out}: its folder cannot be created: {why}") from None
    if export_onnx is not None:
        return export_onnx(out, size=size)
    found = family_of(saved.config).exported(saved.config, saved.model, saved.class_names)
    notes = {
        "class_names": json.dumps(found.class_names),
        "model": saved.role,
        "step": str(saved.checkpoint.step),
        "raydet_model_config": saved.config.model.model_dump_json(),
        "raydet_views_config": found.views,
    }
    needed = sum(value.numel() * value.element_size() for value in found.weights.values())
    with replacing_path(out, needed=needed) as aside:
        save_tensors({name: value.contiguous() for name, value in found.weights.items()}, aside, notes)
    return f"{out}: {saved.role} at step {saved.checkpoint.step}, {plural(len(found.weights), 'tensor')}{found.remark}"
