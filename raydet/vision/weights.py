"""A module's weights: taking them, sending them, putting them back. `digests.py` names them by their content."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from raydet.errors import CheckpointError
from raydet.records import Weights
from raydet.vision.device import to_device

Arrays = dict[str, np.ndarray]

COUNTER = "num_batches_tracked"  # of batch norm; older files of weights have none, and frozen norms do not count


def weights_of(module: nn.Module) -> Weights:
    """Copy the module's state dict, buffers included, to tensors on its device that share nothing with it."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def to_arrays(weights: Weights) -> Arrays:
    """Return weights as arrays in this machine's memory, to be sent to other processes; may share memory with them."""
    if not any(value.is_cuda for value in weights.values()):
        return {name: value.contiguous().numpy() for name, value in weights.items()}
    found: Arrays = {}
    for dtype in {value.dtype for value in weights.values()}:  # one copy each: a GPU is waited for at every one
        own = {name: value for name, value in weights.items() if value.dtype == dtype}
        flat = torch.cat([value.reshape(-1) for value in own.values()]).cpu()
        pieces = torch.split(flat, [value.numel() for value in own.values()])
        found |= {n: piece.numpy().reshape(v.shape) for (n, v), piece in zip(own.items(), pieces, strict=True)}
    return {name: found[name] for name in weights}


def from_arrays(arrays: Arrays) -> Weights:
    """Return what `to_arrays` was given, in this machine's memory."""
    # Arrays from Ray's object store are read-only, which torch cannot express: those are copied first.
    return {n: torch.from_numpy(a) if a.flags.writeable else torch.tensor(a) for n, a in arrays.items()}


def load_weights(module: nn.Module, weights: Weights) -> None:
    """Overwrite the module's state in place. Raises CheckpointError unless names and shapes fit exactly."""
    load_tensors(module, weights, "these weights")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the local file that `model.weights` names: safetensors, or a state dict saved by torch. Runs no code in it.

    Raises CheckpointError where there is no such file, or anything but a flat dict of tensors in it.
    """
    if not path.is_file():
        raise CheckpointError(
            f"model.weights: no file {path}; give a local file of the network's weights, `imagenet` for published ones "
            f"where the network has them, or `none` to train from scratch"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # what torch says of files that it then refuses
            tensors = (
                load_file(path)
                if path.suffix == ".safetensors"
                else torch.load(path, map_location="cpu", weights_only=True)
            )
    except Exception as error:  # a damaged file makes the readers raise anything
        raise CheckpointError(f"model.weights: {path} {_why_unreadable(error)}") from None
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in tensors.items()
    ):
        raise CheckpointError(f"model.weights: {path} is not a flat dict of tensors by name (a network's state dict)")
    return tensors


def _why_unreadable(error: Exception) -> str:
    """Say why a file was refused. What torch says of pickled objects is left out: it explains how to run their code."""
    said = str(error).lower()
    if "torchscript" in said:
        return "is a TorchScript archive, which is a program; save its tensors: torch.save(model.state_dict(), FILE)"
    is_pickle = "unsupported operand" not in said
    if is_pickle and ("weights_only" in said or (isinstance(error, UnpicklingError) and "global" in said)):
        return (
            "holds Python objects (a whole pickled model, say); reading those can run any code, so it was not read; "
            "where you trust it, save its tensors by themselves: torch.save(model.state_dict(), FILE)"
        )
    if isinstance(error, UnpicklingError | EOFError):
        return "cannot be read as safetensors or tensors: it is truncated, damaged, or something else"
    reason = (str(error).splitlines() or [""])[0]
    return f"cannot be read as safetensors or tensors; is it complete? ({type(error).__name__}: {reason[:200]})"


def load_tensors(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Overwrite the module's state in place. Raises CheckpointError, starting with `where`, unless all fits exactly."""
    state = module.state_dict()
    problems = [
        *(f"{name} is missing" for name in state if name not in tensors),
        *(f"{name} is unknown" for name in tensors if name not in state),
        *(
            f"{name} has shape {list(tensors[name].shape)}, the model wants {list(value.shape)}"
            for name, value in state.items()
            if name in tensors and tensors[name].shape != value.shape
        ),
    ]
    if problems:
        more = f", and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise CheckpointError(
            f"{where} do not fit the model: {'; '.join(problems[:5])}{more}. "
            f"Check network (backbone, norms, IoU branch) and number of classes of the configuration."
        )
    with torch.no_grad():
        for name, value in state.items():
            value.copy_(to_device(tensors[name], value.device))
