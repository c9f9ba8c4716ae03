"""Networks of timm as bodies of a feature pyramid. timm is an extra: it is imported where such a network is wanted."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raydet.errors import CheckpointError, ConfigError
from raydet.vision.pretrained import may_fetch
from raydet.vision.weights import COUNTER, load_tensors, read_tensors

PROBE = (64, 96)  # height and width of the image that a network must take
ALL_STAGES = 5  # of model.trainable_stages: nothing is frozen, however many stages a network has


class TimmBody(nn.Module):
    """The maps of a network of timm at some strides. Its random draws (drop path, dropout) are turned off."""

    def __init__(self, name: str, strides: tuple[int, ...], *, weights: str | None, trainable_stages: int) -> None:
        """Build `name` up to the last of `strides`; `weights` is None, "imagenet" (timm's own) or a local file.

        With weights (an empty text: those that a checkpoint will bring) batch norms are frozen, and the top
        `trainable_stages` train. Raises CheckpointError where timm is missing or has no such network, and where the
        network has no such strides or the weights do not fit; ConfigError where it has no such stages.
        """
        super().__init__()
        self.name, self.strides = name, strides
        with torch.device("meta"):
            info = _create(name).feature_info
        rows = {stride: row for row, stride in enumerate(info.reduction())}  # of equal strides the last
        lacking = [stride for stride in strides if stride not in rows]
        if lacking:
            raise CheckpointError(
                f"model.backbone=timm/{name} has maps of strides {sorted(rows)}, not of {lacking}; set "
                f"model.fpn_strides to some of those it has, or choose another backbone"
            )
        self.network = _create(name, out_indices=[rows[s] for s in strides], pretrained=weights == "imagenet")
        self.channels = [info.channels()[rows[stride]] for stride in strides]
        settings = _timm().get_pretrained_cfg(name)
        self.input_mean, self.input_std = tuple(settings.mean), tuple(settings.std)
        if weights not in (None, "", "imagenet"):
            _load(self.network, name, Path(str(weights)))
        if weights is not None:
            self.network = _timm().layers.freeze_batch_norm_2d(self.network)
        _draw_nothing(self.network)
        self._check()
        if weights is not None:
            freeze(self.network, name, [row for row in rows.values() if row <= rows[strides[-1]]], trainable_stages)

    def maps(self, pixels: Tensor) -> dict[int, Tensor]:
        """Return the map of each stride, `[N, C, H / stride, W / stride]`."""
        found = self.network(pixels)
        # Swin and its like compute with channels last; their maps say so by their shape.
        return {
            stride: each if each.shape[1] == channels else each.permute(0, 3, 1, 2).contiguous()
            for stride, channels, each in zip(self.strides, self.channels, found, strict=True)
        }

    @torch.no_grad()
    def _check(self) -> None:
        """Raise CheckpointError unless the network takes an image of another size than the one it is published for."""
        was_training = self.training
        device = next(self.network.parameters()).device
        try:
            maps = self.eval().maps(torch.zeros(1, 3, *PROBE, device=device))
            right = all(each.shape[-2:] == (PROBE[0] // s, PROBE[1] // s) for s, each in maps.items())
            reason = "its maps have other sizes than their strides say"
        except (AssertionError, RuntimeError, ValueError) as error:
            right, reason = False, str(error).splitlines()[0] if str(error) else type(error).__name__
        self.train(was_training)
        if not right:
            raise CheckpointError(
                f"model.backbone=timm/{self.name} cannot look at images of {PROBE[0]} x {PROBE[1]} pixels, and a "
                f"detector's have many sizes: {reason}; choose a convolutional network, or one for any size"
            )


def freeze(network: nn.Module, name: str, rows: list[int], trainable_stages: int) -> None:
    """Freeze what comes before the top `trainable_stages` of timm's `name`; 0: everything, 5: nothing.

    Stages end at the maps `rows`, finest first; what lies between the ends of two belongs to the later one. Raises
    ConfigError where such stages are none: where a coarser map does without what a finer one is computed from, as
    those of HRNet, whose branches run side by side to the end, or where they have no weights.
    """
    if trainable_stages >= min(ALL_STAGES, len(rows)):
        return
    if trainable_stages == 0:
        network.requires_grad_(False)
        return
    sources = _sources(name, rows)

    def can_train(stages: int) -> bool:
        frozen, top = sources[-1 - stages], sources[-stages:]
        return all(frozen <= each for each in top) and frozen < top[-1]

    if not can_train(trainable_stages):
        others = [str(stages) for stages in range(1, min(ALL_STAGES, len(rows))) if can_train(stages)]
        raise ConfigError(
            f"model.backbone=timm/{name} has no top of model.trainable_stages={trainable_stages} that could train "
            f"while what comes before it is frozen: its stages are not computed one after the other, or have no "
            f"weights; set model.trainable_stages to {', '.join(['0 (all of it is frozen)', *others])} or "
            f"{ALL_STAGES} (all of it trains), or choose another backbone"
        )
    frozen = sources[-1 - trainable_stages]
    for key, parameter in network.named_parameters():
        parameter.requires_grad_(key not in frozen)


def _sources(name: str, rows: list[int]) -> list[set[str]]:
    """Return the names of the parameters that each of the maps `rows` is computed from.

    The names of timm's stages do not tell: they need not be names of modules, and modules need not be listed in the
    order in which they compute.
    """
    with torch.device("meta"), torch.enable_grad():  # shapes alone, no numbers
        network = _create(name, out_indices=rows).eval()
        named = dict(network.named_parameters())
        found = []
        for each in network(torch.zeros(1, 3, *PROBE)):
            slopes = torch.autograd.grad(each.sum(), list(named.values()), retain_graph=True, allow_unused=True)
            found.append({key for key, slope in zip(named, slopes, strict=True) if slope is not None})
    return found


def _flat(name: str) -> str:
    """Return a name as it is in a network whose modules timm has pulled up: `stages.0.x` becomes `stages_0.x` there."""
    return name.removeprefix("model.").replace(".", "_")


def _timm() -> Any:
    if importlib.util.find_spec("timm") is None:
        raise CheckpointError("model.backbone=timm/...: timm is not installed: pip install 'raydet[timm]'")
    import timm.layers

    return timm


def _create(name: str, *, pretrained: bool = False, **features: Any) -> Any:
    """Return a network of timm; see `TimmBody`."""
    timm = _timm()
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('_')[0].split('.')[0]}*")[:5]
        hint = f", such as {', '.join(near)}" if near else ""
        raise CheckpointError(f"model.backbone=timm/{name}: timm {timm.__version__} has no such network{hint}")
    whole = {} if features.pop("whole", False) else {"features_only": True, **features}
    # Swin's check of the image's size can be turned off; others do not know the word.
    flexible = {"strict_img_size": False} if name.startswith("swin") else {}
    settings = timm.get_pretrained_cfg(name) if pretrained else None
    source = settings and (f"https://huggingface.co/{settings.hf_hub_id}" if settings.hf_hub_id else settings.url)
    remedy = "without a network, fetch the file elsewhere and write model.weights=FILE"
    if pretrained and not source:
        raise CheckpointError(
            f"model.weights=imagenet: timm has no weights of timm/{name}; write `weights: none` to train from scratch, "
            f"or give a local file of the network's weights"
        )
    if source and not _is_cached(settings):
        may_fetch(source, remedy)
    try:
        with _quiet("huggingface_hub"):  # it tells of every retry; the last error is told below
            return timm.create_model(name, pretrained=pretrained, **whole, **flexible)
    except Exception as error:  # of timm, of its hub's client, or of the network: whatever it is, nothing was built
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if not pretrained:
            raise CheckpointError(
                f"model.backbone=timm/{name} cannot be built to give feature maps: {reason}"
            ) from None
        raise CheckpointError(
            f"model.weights=imagenet: the weights of timm/{name} cannot be fetched from {source} ({reason}); {remedy}"
        ) from None


def _is_cached(settings: Any) -> bool:
    """Return whether the weights that a network of timm is published with are on this machine."""
    if not settings.hf_hub_id:
        return Path(torch.hub.get_dir(), "checkpoints", str(settings.url).rsplit("/", 1)[-1]).exists()
    import huggingface_hub  # timm's own way to fetch weights

    repository, _, revision = settings.hf_hub_id.partition("@")
    names = [settings.hf_hub_filename] if settings.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    look = huggingface_hub.try_to_load_from_cache
    return any(isinstance(look(repository, name, revision=revision or None), str) for name in names)


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Let a package's loggers speak of errors only."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _load(network: nn.Module, name: str, file: Path) -> None:
    """Load a file of the whole network's weights, classifier or not, into the part that gives feature maps."""
    whole = _create(name, whole=True)
    heads = whole.pretrained_cfg.get("classifier") or ()
    heads = tuple(f"{head}." for head in ((heads,) if isinstance(heads, str) else heads))
    state = whole.state_dict()
    tensors = {key: value for key, value in read_tensors(file).items() if not key.startswith(heads)}
    kept = {key: value for key, value in state.items() if key.startswith(heads) or key.endswith(COUNTER)}
    load_tensors(whole, {**kept, **tensors}, f"model.weights: the tensors of {file} (timm/{name})")
    by_name = {_flat(key): value for key, value in whole.state_dict().items()}
    with torch.no_grad():
        for key, value in network.state_dict().items():
            value.copy_(by_name[_flat(key)])


def _draw_nothing(network: nn.Module) -> None:
    """Turn drop path and dropout off: they draw from torch's global generator, and a resumed run must not differ."""
    for module in network.modules():
        if hasattr(module, "drop_prob"):
            setattr(module, "drop_prob", 0.0)  # noqa: B010 - timm's modules are not typed
        if isinstance(module, nn.Dropout):
            module.p = 0.0
