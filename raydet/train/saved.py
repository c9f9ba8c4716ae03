"""What can be done with a finished or running run: evaluate it, export its model, report on it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from raydet.config.data import DatasetConfig
from raydet.config.run import RunConfig
from raydet.data.index import DatasetIndex
from raydet.data.prepare import open_prepared
from raydet.data.single import prepare_one
from raydet.errors import CheckpointError, DataError, UserError
from raydet.evaluate import EvalResult
from raydet.methods import Method, build_method
from raydet.models.detector import Detector
from raydet.models.ema import load_weights
from raydet.train.checkpoint import Checkpoint, latest_checkpoint, open_checkpoint
from raydet.train.group import Group
from raydet.train.predict import evaluate_sharded
from raydet.train.rundir import RunFolder


@dataclass(frozen=True, slots=True, eq=False)
class SavedModel:
    """A model read back from a checkpoint."""

    config: RunConfig
    method: Method
    model: Detector
    class_names: tuple[str, ...]
    role: str  # teacher or student
    checkpoint: Checkpoint


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
    elif path.is_dir():
        checkpoint = open_checkpoint(path)
        folder = RunFolder(path.parent.parent)
    else:
        raise CheckpointError(f"{path}: neither a run folder (with config.json) nor a checkpoint folder")
    config = folder.load_config()
    if role is None:
        role = "teacher" if checkpoint.has("teacher") else "student"
    if not checkpoint.has(role):
        raise CheckpointError(f"{checkpoint.path}: has no {role} (the teacher exists from the burn-in's end on)")
    names = tuple(checkpoint.state["class_names"])
    method = build_method(config)
    model = method.build_model(len(names))
    load_weights(model, {key: value.numpy() for key, value in checkpoint.tensors(role).items()})
    return SavedModel(config, method, model.eval(), names, role, checkpoint)


def evaluate_saved(path: Path, *, data: DatasetConfig | None, split: str, role: str | None) -> EvalResult:
    """Return the COCO figures of a saved model on its run's own val or test set, or on any other data set."""
    return evaluate_model(load_saved(path, role=role), data=data, split=split)


def evaluate_model(saved: SavedModel, *, data: DatasetConfig | None, split: str) -> EvalResult:
    """Do the same for a model already loaded."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    index = _index_for(saved, data, split)
    result = evaluate_sharded(saved.method, saved.model.to(device), index, Group(device=device))
    assert result is not None
    return result


def _index_for(saved: SavedModel, data: DatasetConfig | None, split: str) -> DatasetIndex:
    folder = saved.checkpoint.path.parent.parent
    if data is not None:
        return prepare_one(data, folder / "data" / "evaluate", class_names=saved.class_names)
    prepared = open_prepared(folder / "data")
    index = {"val": prepared.val, "test": prepared.test}[split]
    if index is None:
        raise DataError(f"{folder}: the run's configuration names no data.{split}; give a data set with --data")
    return index


def export(path: Path, out: Path, *, role: str | None = None) -> str:
    """Write a model file: .safetensors that plain torchvision loads, or .onnx checked against PyTorch."""
    if out.suffix not in (".safetensors", ".onnx"):
        raise UserError(f"--out {out}: expected a name that ends in .safetensors or .onnx")
    saved = load_saved(path, role=role)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out}: its folder cannot be created: {error.strerror}") from None
    if out.suffix == ".onnx":
        from raydet.train.onnx_export import export_onnx

        return export_onnx(saved, out)
    notes = {
        "class_names": json.dumps(["__background__", *saved.class_names]),
        "model": saved.role,
        "step": str(saved.checkpoint.step),
        "raydet_model_config": saved.config.model.model_dump_json(),
    }
    weights: dict[str, Tensor] = {key: value.contiguous() for key, value in saved.model.state_dict().items()}
    branch = [key for key in weights if key.startswith("iou_branch.")]
    plain = {key: value for key, value in weights.items() if key not in branch}
    aside = out.with_name(f".writing-{out.name}")
    save_file(plain, aside, metadata=notes)
    aside.rename(out)
    left_out = f" ({len(branch)} tensors of the IoU branch left out)" if branch else ""
    return f"{out}: {saved.role} at step {saved.checkpoint.step}, {len(plain)} tensors{left_out}"


def report(run_dir: Path) -> Path:
    """Write RUN/report.html."""
    from raydet.report.write import write_report  # matplotlib only where it is wanted

    folder = RunFolder(run_dir)
    method = build_method(folder.load_config())
    return write_report(folder.path, select=lambda label: method.select(label).kept)
