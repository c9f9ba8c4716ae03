"""`weights: imagenet` of torchvision's networks: torch.hub's cache, its lock, checksums, and what is said offline.

Nothing is downloaded: the weights' address is that of a local file, which torch.hub reads as it reads any other.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import os
import stat
import threading
import urllib.error
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchvision.models as tv
from torch.hub import load_state_dict_from_url

from raydet.config.classifier import ClassifierConfig
from raydet.config.detector import ModelConfig
from raydet.errors import CheckpointError
from raydet.train.launch import launch
from raydet.vision import pretrained
from raydet.vision.backbones import build_backbone
from raydet.vision.classifier import Classifier
from raydet.vision.pretrained import TORCHVISION, torchvision_tensors
from raydet.vision.weights import read_tensors
from tests.helpers import tiny_config


class Published:
    """Weights as torchvision's enum describes them, with a count of downloads."""

    def __init__(self, folder: Path, cache: Path, network: str = "resnet18") -> None:
        torch.manual_seed(0)
        self.state = getattr(tv, network)(weights=None).state_dict()
        content = io.BytesIO()
        torch.save(self.state, content)
        digest = hashlib.sha256(content.getvalue()).hexdigest()
        self.source = folder / f"{network}-{digest[:8]}.pth"
        self.source.write_bytes(content.getvalue())
        self.url = self.source.as_uri()
        self.cached = cache / "checkpoints" / self.source.name
        self.downloads = 0

    def get_state_dict(self, **settings: object) -> dict[str, torch.Tensor]:
        self.downloads += not self.cached.exists()
        return load_state_dict_from_url(self.url, **settings)


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Published:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    found = Published(tmp_path, tmp_path / "torch" / "hub")
    monkeypatch.setitem(TORCHVISION, "resnet18", found)
    return found


RESNET = ModelConfig(backbone="resnet18_fpn", weights="imagenet", fpn_channels=16)


@pytest.mark.parametrize("network", ["resnet18", "resnet50", "resnet101"])
def test_names_mean_the_weights_that_torchvisions_detectors_start_from(network: str):
    entry = TORCHVISION[network]
    assert entry.name == "IMAGENET1K_V1"
    assert entry.url.startswith(f"https://download.pytorch.org/models/{network}-")


def test_a_detector_and_a_classifier_start_from_them(published: Published):
    body = build_backbone(RESNET).body
    assert torch.equal(body.layer4[1].conv2.weight, published.state["layer4.1.conv2.weight"])
    classifier = Classifier(ClassifierConfig(network="resnet18", weights="imagenet"), 1000)
    assert torch.equal(classifier.last.weight, published.state["fc.weight"])
    assert published.downloads == 1


def test_processes_of_a_node_download_once(published: Published):
    pretrained.cached(published).parent.mkdir(parents=True)
    lock = published.cached.with_name(f"{published.cached.name}.lock")
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # as another process does while it downloads
        threads = [threading.Thread(target=torchvision_tensors, args=("resnet18",)) for _ in range(2)]
        for thread in threads:
            thread.start()
        threads[0].join(timeout=0.5)
        assert threads[0].is_alive() and published.downloads == 0
    for thread in threads:
        thread.join(timeout=60)
    assert published.downloads == 1


def test_a_download_of_another_content_is_refused(published: Published):
    published.source.write_bytes(published.source.read_bytes() + b"x")
    with pytest.raises(CheckpointError, match=r"cannot be fetched \(invalid hash value"):
        torchvision_tensors("resnet18")
    assert not published.cached.exists()


def test_a_damaged_file_in_the_cache_is_named(published: Published):
    torchvision_tensors("resnet18")
    published.cached.write_bytes(published.cached.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"is damaged .*; delete it, and it will be fetched anew") as error:
        torchvision_tensors("resnet18")
    assert str(published.cached) in str(error.value)


def test_without_a_network_one_message_says_what_to_put_where(published: Published, monkeypatch: pytest.MonkeyPatch):
    def offline(*args: object, **settings: object) -> None:
        raise urllib.error.URLError("Temporary failure in name resolution")

    monkeypatch.setattr(published, "get_state_dict", offline)
    with pytest.raises(CheckpointError) as error:
        build_backbone(RESNET)
    assert published.url in str(error.value)
    assert f"put it at {published.cached}, on every node" in str(error.value)
    assert "name resolution" in str(error.value)


def test_a_file_put_there_by_hand_is_taken(published: Published):
    published.cached.parent.mkdir(parents=True)
    published.cached.write_bytes(published.source.read_bytes())
    published.source.unlink()
    assert torchvision_tensors("resnet18").keys() == published.state.keys()


def test_a_file_in_a_cache_that_cannot_be_written_to_is_taken(published: Published):
    torchvision_tensors("resnet18")
    lock = published.cached.with_name(f"{published.cached.name}.lock")
    lock.unlink()
    lock.mkdir()  # no process can open it, not even root's
    assert torchvision_tensors("resnet18").keys() == published.state.keys()
    assert published.downloads == 1
    published.cached.unlink()  # now something is to be written
    with pytest.raises(CheckpointError, match=rf"{lock} cannot be written to \(Is a directory\); set TORCH_HOME"):
        torchvision_tensors("resnet18")


def test_other_users_can_take_turns_with_the_lock(published: Published):
    before = os.umask(0o022)
    try:
        torchvision_tensors("resnet18")
    finally:
        os.umask(before)
    lock = published.cached.with_name(f"{published.cached.name}.lock")
    assert stat.S_IMODE(lock.stat().st_mode) == 0o666


def test_a_cache_without_locks_is_named(published: Published, monkeypatch: pytest.MonkeyPatch):
    def refused(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refused)
    said = rf"{published.cached.parent}: the file system has no locks \(.*\); set TORCH_HOME to a folder elsewhere"
    with pytest.raises(CheckpointError, match=said):
        torchvision_tensors("resnet18")


def test_a_file_in_the_cache_that_cannot_be_read_is_named(published: Published):
    published.cached.mkdir(parents=True)
    with pytest.raises(CheckpointError, match=rf"{published.cached} cannot be read \(Is a directory\)"):
        torchvision_tensors("resnet18")


def test_a_cache_that_cannot_be_written_to_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file"))
    with pytest.raises(CheckpointError, match="set TORCH_HOME to a folder that can"):
        torchvision_tensors("resnet18")


def test_a_silent_server_is_given_up_and_nothing_else_changes(published: Published, monkeypatch: pytest.MonkeyPatch):
    import socket

    seen = []
    monkeypatch.setattr(published, "get_state_dict", lambda **_: seen.append(socket.getdefaulttimeout()) or {})
    torchvision_tensors("resnet18")
    assert seen == [30] and socket.getdefaulttimeout() is None


def test_a_run_with_unusable_weights_is_not_begun(tmp_path: Path):
    (tmp_path / "w.pth").write_bytes(b"nothing")
    model = {"backbone": "resnet18_fpn", "weights": str(tmp_path / "w.pth"), "fpn_channels": 16}
    with pytest.raises(CheckpointError, match=r"w\.pth cannot be read"):
        launch(tiny_config(tmp_path / "run", model=model))
    assert not (tmp_path / "run" / "config.json").exists()  # the same command works once the file is mended


def test_a_whole_pickled_model_is_refused_without_a_word_on_how_to_run_it(tmp_path: Path):
    torch.save(torch.nn.Sequential(torch.nn.Linear(2, 2)), tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=r"can run any code.*torch\.save\(model\.state_dict\(\), FILE\)") as error:
        build_backbone(ModelConfig(weights=str(tmp_path / "model.pth")))
    assert "weights_only" not in str(error.value) and "safe_globals" not in str(error.value)


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        import os

        return os.mkdir, (str(self.folder),)


def test_code_in_a_pickle_does_not_run(tmp_path: Path):
    torch.save({"conv1.weight": Bomb(tmp_path / "ran")}, tmp_path / "bomb.pth")
    with pytest.raises(CheckpointError, match="can run any code"):
        build_backbone(ModelConfig(weights=str(tmp_path / "bomb.pth")))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [{1: torch.zeros(2)}, {"a": {"b": torch.zeros(2)}}, [torch.zeros(2)]])
def test_anything_but_tensors_by_name_is_refused(tmp_path: Path, content: object):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"w\.pth is not a flat dict of tensors by name"):
        read_tensors(tmp_path / "w.pth")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_truncated_file_is_refused_in_a_line(tmp_path: Path, suffix: str, share: float):
    from safetensors.torch import save_file

    file = tmp_path / f"w.{suffix}"
    state = {"a": torch.rand(200, 50)}
    save_file(state, file) if suffix == "safetensors" else torch.save(state, file)
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(CheckpointError, match=rf"model\.weights: .*w\.{suffix} cannot be read") as error:
        build_backbone(ModelConfig(weights=str(file)))
    assert "\n" not in str(error.value) and "weights_only" not in str(error.value)


def test_fakes_are_called_as_torchvision_is(monkeypatch: pytest.MonkeyPatch, published: Published):
    """torchvision's own enum passes its settings on to torch.hub, as `Published` does."""
    seen = SimpleNamespace(settings={})

    def recorded(url: str, **settings: object) -> dict[str, torch.Tensor]:
        seen.url, seen.settings = url, settings
        return {}

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", recorded)
    monkeypatch.setitem(TORCHVISION, "resnet18", tv.ResNet18_Weights.IMAGENET1K_V1)
    torchvision_tensors("resnet18")
    assert seen.url.endswith("resnet18-f37072fd.pth")
    assert seen.settings["check_hash"] is True and seen.settings["weights_only"] is True
