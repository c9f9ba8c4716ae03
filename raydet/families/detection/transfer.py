"""Weights of another run as a detector's start: `model.init_from`. See docs/transfer.md.

Tensors go by name and shape, part by part; a part is taken whole or not at all. A source that has other tensors of a
part than this detector is refused: a network that silently starts afresh looks like a method that does not work.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from raydet.config.transfer import PARTS, Part, TransferSection
from raydet.errors import CheckpointError
from raydet.registry import family_of
from raydet.text import plural
from raydet.train.saved import load_saved
from raydet.vision.detector import Detector
from raydet.vision.digests import digest
from raydet.vision.weights import COUNTER, read_tensors

Sizes = tuple[tuple[float, ...], ...]
_STARTS: dict[Part, re.Pattern[str]] = {
    "fpn": re.compile(r"backbone\.fpn\."),
    "backbone": re.compile(r"backbone\."),
    "rpn": re.compile(r"rpn\."),
    "box_head": re.compile(r"roi_heads\.(stages\.\d+\.)?box_head\."),
}
_STAGE = re.compile(r"stages\.\d+\.")  # of a cascade, which has several box heads


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """What can be taken."""

    tensors: Mapping[str, Tensor]  # by the names that a detector has
    others: Counter[str]  # of what else is there: first part of the name -> number of tensors
    said: str  # where it comes from, for people
    anchor_sizes: Sizes = ()  # pixels, per level; nothing where nobody knows


def start(model: Detector, config: TransferSection) -> list[str]:
    """Overwrite parts of a fresh detector as `config` says; return what became of each part, a line each.

    Raises CheckpointError where the source cannot be read, lacks a part that is asked for, or is of another network.
    """
    if config.init_from is None:
        return []
    source = read_source(Path(config.init_from), config.init_role)
    state = {name: value for name, value in model.state_dict().items() if not name.endswith(COUNTER)}
    taken, lines = dict[str, Tensor](), [f"model.init_from: {source.said}"]
    own_sizes = model.config.anchor_sizes
    for part in PARTS:
        wanted = {name: value for name, value in state.items() if part_of(name) == part}
        if not config.takes(part):
            lines.append(f"  {part}: left out by model.init_parts ({plural(len(wanted), 'tensor')})")
            continue
        found = _for_stages(wanted, {n: value for n, value in source.tensors.items() if part_of(n) == part})
        if not found and part not in config.init_parts:
            lines.append(f"  {part}: fresh, there is none in it ({plural(len(wanted), 'tensor')})")
            continue
        _check(part, wanted, found, config)
        taken |= found
        lines.append(f"  {part}: {plural(len(found), 'tensor')} taken")
        if part == "rpn" and source.anchor_sizes not in ((), own_sizes):
            lines.append(f"    their anchors have sizes {_sizes(source.anchor_sizes)}, here {_sizes(own_sizes)}")
    _check_enough(taken, source, config)
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
        short = digest(saved.model.state_dict())[:12]
        name, step = saved.config.method.name, saved.checkpoint.step
        said = f"{saved.role} of {name} at step {step}, {path} (digest {short}...)"
        return Source(_counted_out(found.weights), others, said, getattr(saved.config.model, "anchor_sizes", ()))
    if not path.exists():
        raise CheckpointError(f"{where}: there is no such folder or file; name a run, a checkpoint or an exported file")
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
    short = digest(tensors)[:12]
    return Source(_counted_out(tensors), Counter(), f"{path} (digest {short}...)", _exported_sizes(path))


def _exported_sizes(path: Path) -> Sizes:
    """Return the anchor sizes that `raydet export` noted in a file; nothing where it is somebody else's."""
    with safe_open(path, "pt") as file:
        notes = file.metadata() or {}
    try:
        levels = json.loads(notes["raydet_model_config"])["anchor_sizes"]
        return tuple(tuple(float(size) for size in level) for level in levels)
    except (KeyError, ValueError, TypeError):
        return ()


def part_of(name: str) -> Part | None:
    """Return the part that a tensor of a detector belongs to; None for predictors and what methods add."""
    for part, start_of in _STARTS.items():  # the pyramid lies inside the backbone
        if start_of.match(name):
            return part
    return None


def _for_stages(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return what is found; where it is one box head and a cascade's stages are wanted, one for each of these."""
    if not found or any(_STAGE.search(name) for name in found):
        return found
    each = {name: _STAGE.sub("", name) for name in wanted}
    return {name: found[plain] for name, plain in each.items() if plain in found} | {
        name: value for name, value in found.items() if name not in each.values()
    }


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


def _check_enough(taken: Mapping[str, Tensor], source: Source, config: TransferSection) -> None:
    """Raise CheckpointError where features would start afresh by mistake, or would stay random for ever."""
    found = {part_of(name) for name in taken}
    where = f"model.init_from={config.init_from}"
    if config.takes("backbone") and "backbone" not in found:
        names = sorted(source.tensors)[:3]
        held = f"its first tensors are {', '.join(names)}" if names else "it has no tensor"
        others = [part for part in PARTS if part in found]
        way = f", or take the others alone: model.init_parts={others}" if others else ""
        raise CheckpointError(
            f"{where} has nothing of a detector's backbone ({held}): name a detector's or a pre-training run, or its "
            f"exported file{way}"
        )
    random = [part for part in PARTS if part not in found and (part != "backbone" or config.weights is None)]
    if config.finetune == "predictors" and random:
        raise CheckpointError(
            f"model.finetune=predictors would leave {', '.join(random)} random for ever: {where} has none of it, or "
            f"model.init_parts leaves it out. Set model.finetune=all, or start from a run that has it"
        )


def _sizes(sizes: Sizes) -> str:
    """Return the anchor sizes of all levels as text."""
    return ", ".join("/".join(f"{size:g}" for size in level) for level in sizes)


def _advice(part: Part) -> str:
    return {
        "backbone": "Use the same model.backbone and model.fpn_strides",
        "fpn": "Use the same model.fpn_channels, model.fpn_strides and model.fpn_norm",
        "rpn": "Use as many anchors per place: model.anchor_sizes and model.anchor_ratios, and the same "
        "model.fpn_channels",
        "box_head": "Use the same model.box_head, box_head_dim, roi_pool_size, fpn_channels and fpn_norm, and the "
        "stages of a cascade for a cascade of as many",
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
    used = {_STAGE.sub("", name) for name in taken} | set(taken)
    left = Counter(_group(name) for name in source.tensors if name not in used) + source.others
    return [
        f"  fresh: {_listed(fresh)}" if fresh else "  fresh: nothing",
        f"  not used: {_listed(left)}" if left else "  not used: nothing",
    ]


def _group(name: str) -> str:
    part = part_of(name)
    return part if part is not None else ".".join(name.split(".")[:2])


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} ({plural(number, 'tensor')})" for name, number in sorted(counts.items()))
