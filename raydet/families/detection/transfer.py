"""Weights of another run as a detector's start: `model.init_from`. See docs/transfer.md.

Tensors go by name and shape, part by part; a part is taken whole or not at all. A source that has other tensors of a
part than this detector is refused: a network that silently starts afresh looks like a method that does not work.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from raydet.config.transfer import PARTS, Part, TransferSection
from raydet.errors import CheckpointError
from raydet.registry import family_of
from raydet.train.saved import load_saved
from raydet.vision.weights import COUNTER, digest, read_tensors, weights_of

_PREFIXES: dict[Part, str] = {
    "fpn": "backbone.fpn.",
    "backbone": "backbone.",
    "rpn": "rpn.",
    "box_head": "roi_heads.box_head.",
}


STAGES = "roi_heads.stages."  # of a cascade; a number follows


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """What can be taken."""

    tensors: Mapping[str, Tensor]  # by the names that a detector has
    others: Counter[str]  # of what else is there: first part of the name -> number of tensors
    said: str  # where it comes from, for people


def start(model: nn.Module, config: TransferSection) -> list[str]:
    """Overwrite parts of a fresh detector as `config` says; return what became of each part, a line each.

    Raises CheckpointError where the source cannot be read, lacks a part that is asked for, or is of another network.
    """
    if config.init_from is None:
        return []
    source = read_source(Path(config.init_from), config.init_role)
    state = {name: value for name, value in model.state_dict().items() if not name.endswith(COUNTER)}
    source = replace(source, tensors=for_stages(source.tensors, state))
    taken, lines = dict[str, Tensor](), [f"model.init_from: {source.said}"]
    for part in config.init_parts or PARTS:
        wanted = {name: value for name, value in state.items() if part_of(name) == part}
        found = {name: value for name, value in source.tensors.items() if part_of(name) == part}
        if not found and part not in config.init_parts:
            lines.append(f"  {part}: fresh, there is none in it ({len(wanted)} tensors)")
            continue
        _check(part, wanted, found, config)
        taken |= found
        lines.append(f"  {part}: {len(found)} tensors taken")
    _overwrite(state, taken)
    return [*lines, *_rest(state, taken, source)]


def read_source(path: Path, role: str | None) -> Source:
    """Return what a run, a checkpoint or an exported file holds. Raises CheckpointError."""
    where = f"model.init_from={path}"
    if path.is_dir():
        try:
            saved = load_saved(path, role=role)
        except CheckpointError as error:
            raise CheckpointError(f"{where}: {str(error).removeprefix(f'{path}: ')}") from None
        found = family_of(saved.config).exported(saved.config, saved.model, saved.class_names)
        others = Counter(name.split(".")[0] for name in saved.model.state_dict() if name not in found.weights)
        short = digest(weights_of(saved.model))[:12]
        name, step = saved.config.method.name, saved.checkpoint.step
        said = f"{saved.role} of {name} at step {step}, {path} (SHA-256 {short}...)"
        return Source(_counted_out(found.weights), others, said)
    if path.suffix != ".safetensors":
        raise CheckpointError(
            f"{where}: expected a run folder, a checkpoint folder, or a .safetensors file (raydet export RUN --out "
            f"FILE.safetensors)"
        )
    if role is not None:
        raise CheckpointError(f"{where}: a file holds one model; remove model.init_role={role}")
    try:
        tensors = read_tensors(path)
    except CheckpointError as error:
        raise CheckpointError(str(error).replace("model.weights: ", f"{where}: ", 1)) from None
    short = digest({name: value.float().numpy() for name, value in tensors.items()})[:12]
    return Source(_counted_out(tensors), Counter(), f"{path} (SHA-256 {short}...)")


def for_stages(tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return tensors of one box head by the names that a cascade has: every stage starts from the same."""
    stages = sorted({name.removeprefix(STAGES).split(".")[0] for name in state if name.startswith(STAGES)})
    if not stages:
        return tensors
    found = {name: value for name, value in tensors.items() if not name.startswith(_PREFIXES["box_head"])}
    for name, value in tensors.items():
        if name.startswith(_PREFIXES["box_head"]):
            found |= {f"{STAGES}{stage}.{name.removeprefix('roi_heads.')}": value for stage in stages}
    return found


def part_of(name: str) -> Part | None:
    """Return the part that a tensor of a detector belongs to; None for predictors and what methods add."""
    name = re.sub(rf"^{STAGES}\d+\.", "roi_heads.", name)
    for part, prefix in _PREFIXES.items():  # the pyramid lies inside the backbone
        if name.startswith(prefix):
            return part
    return None


def _check(part: Part, wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], config: TransferSection) -> None:
    """Raise CheckpointError unless names and shapes agree."""
    problems = [
        *(f"{name} is missing" for name in wanted if name not in found),
        *(f"{name} is not part of this detector" for name in found if name not in wanted),
        *(
            f"{name} has shape {list(found[name].shape)}, this detector's has {list(value.shape)}"
            for name, value in wanted.items()
            if name in found and found[name].shape != value.shape
        ),
    ]
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        others = [each for each in config.init_parts or PARTS if each != part]
        raise CheckpointError(
            f"model.init_from={config.init_from}: its {part} is of another network: {'; '.join(problems[:3])}{more}. "
            f"{_advice(part)}, or do without it: model.init_parts={others}"
        )


def _advice(part: Part) -> str:
    return {
        "backbone": "Use the same model.backbone and model.fpn_strides",
        "fpn": "Use the same model.fpn_channels, model.fpn_strides and model.fpn_norm",
        "rpn": "Use as many anchors per place: model.anchor_sizes and model.anchor_ratios, and the same "
        "model.fpn_channels",
        "box_head": "Use the same model.box_head, box_head_dim, roi_pool_size, fpn_channels and fpn_norm, and "
        "the stages of a cascade for a cascade of as many",
    }[part]


def _counted_out(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leave out how many batches norms have seen, which frozen ones do not say."""
    return {name: value for name, value in tensors.items() if not name.endswith(COUNTER)}


@torch.no_grad()
def _overwrite(state: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    for name, value in tensors.items():
        state[name].copy_(value)


def _rest(state: Mapping[str, Tensor], taken: Mapping[str, Tensor], source: Source) -> list[str]:
    """Say what of the detector starts afresh, and what of the source is not used."""
    fresh = Counter(_group(name) for name in state if name not in taken and part_of(name) is None)
    left = Counter(_group(name) for name in source.tensors if name not in taken) + source.others
    return [
        f"  fresh: {_listed(fresh)}" if fresh else "  fresh: nothing",
        f"  not used: {_listed(left)}" if left else "  not used: nothing",
    ]


def _group(name: str) -> str:
    part = part_of(name)
    return part if part is not None else ".".join(name.split(".")[:2])


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} ({number} tensors)" for name, number in sorted(counts.items()))
