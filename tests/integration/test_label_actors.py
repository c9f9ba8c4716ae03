"""`raydet label` with actors: the same labels whatever is killed; what no node or no actor can do."""

from __future__ import annotations

import os
import re
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from raydet.cluster.nodes import alive_nodes
from raydet.image_jobs import actors
from raydet.image_jobs.actors import Share, work_with_actors
from raydet.image_jobs.image_stores import LocalStore, Picture
from raydet.image_jobs.listing import Images, write_listing
from raydet.image_jobs.progress import Progress
from raydet.image_jobs.shards import chunks
from raydet.image_jobs.work import WorkList
from raydet.image_jobs.worker import Job
from raydet.label_files.labeller import SCHEMA, Labelling
from raydet.registry import family_of
from raydet.train.launch import launch
from raydet.train.saved import load_saved
from tests.helpers import tiny_config
from tests.integration.labelling import assert_same, label, put_photos, rows

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight steps of IL-net."""
    return launch(tiny_config(tmp_path_factory.mktemp("label") / "run")).path


@pytest.fixture(scope="module")
def photos(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return put_photos(run, tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def labelled(run: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photos, labelled in this process: 40 images in 10 shards."""
    out = tmp_path_factory.mktemp("labelled") / "out"
    assert label(run, photos, out) == 0
    return out


@dataclass(frozen=True, slots=True)
class DeadlyStore(LocalStore):
    """One image kills the process that opens it: every time, or once where there is a file to remember it by."""

    deadly: str = ""
    killed: Path | None = None

    def picture(self, name: str) -> Picture:
        if name == self.deadly and (self.killed is None or not self.killed.exists()):
            if self.killed is not None:
                self.killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return LocalStore.picture(self, name)


@pytest.mark.usefixtures("local_ray")
def test_actors_give_the_same_labels_bit_for_bit_though_one_is_killed(
    run: Path,
    photos: Path,
    labelled: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    root = DeadlyStore(photos.resolve(), deadly="image_020.png", killed=tmp_path / "killed")
    monkeypatch.setattr("raydet.label_files.run.open_images", lambda given, _: Images(given, root))
    assert label(run, photos, tmp_path / "out", "--cpus-per-actor", "0.5", actors=2) == 0
    assert (tmp_path / "killed").exists()
    assert "was lost" in capsys.readouterr().out
    assert_same(tmp_path / "out", labelled)


@pytest.mark.usefixtures("local_ray")
def test_a_node_that_does_not_see_the_images_is_refused(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    elsewhere = (str(tmp_path / "not_mounted" / "image_000.png"), 1)
    monkeypatch.setattr("raydet.image_jobs.run.sample_files", lambda store, listing: (elsewhere,))
    assert label(run, photos, tmp_path / "late", "--cpus-per-actor", "0.5", actors=1) == 1  # seen by the actor
    assert "does not see the images that others see" in capsys.readouterr().err
    monkeypatch.setattr(actors, "alive_nodes", lambda: alive_nodes() * 2)
    assert label(run, photos, tmp_path / "out", "--cpus-per-actor", "0.5", actors=1) == 2  # before there are actors
    said = capsys.readouterr().err
    assert f"the images in {photos.resolve()} must be seen by every node" in said
    assert re.search(r"\n  [\d.]+ \(.+\): /.+/not_mounted/image_000.png: no such image file", said)
    assert not list((tmp_path / "out" / "shards").iterdir())


@pytest.mark.usefixtures("local_ray")
def test_an_image_that_kills_every_actor_is_skipped(
    run: Path, photos: Path, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for losses in ("LOSSES_PER_PIECE", "LOSSES_ALONE"):  # fewer actors to start
        monkeypatch.setattr(f"raydet.image_jobs.work.{losses}", 1)
    saved, names = load_saved(run), [f"image_{number:03d}.png" for number in range(3)]
    model, store = family_of(saved.config).on_files(saved), DeadlyStore(photos.resolve(), deadly=names[1])
    job = Job(Labelling(model, "cpu", "fp32", batch=1), store, threads=1)
    listing = write_listing(names, tmp_path / "listing.jsonl")
    found = []
    progress, share = Progress(3, 0), Share(actors=1, cpus=0.5, gpus=0.0, address=None)
    work = WorkList(chunks(listing, 4), 4, SCHEMA)
    work_with_actors(job, share, work, lambda _, table: found.extend(table.to_pylist()), progress, "labelling")
    first, second, third = found
    expected = {row["image"]: row for row in rows(labelled)}
    assert [first, third] == [expected[names[0]], expected[names[2]]]
    assert second["error"].startswith("1 actor was lost while at work on this image alone; the last: ")
    assert sum("was lost" in line for line in progress.poll()) == 2  # with its neighbours, then alone
