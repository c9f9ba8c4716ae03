"""Images that are listed anew in the middle of a run of two ranks, without Ray: the images that one rank sees, also
when one rank goes on with what two began."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from raydet.families.detection.config import DetectionConfig
from raydet.group import Group
from raydet.registry import family_of
from raydet.settings import parse
from raydet.train.checkpoint import latest_checkpoint
from raydet.train.launch import launch
from raydet.train.rundir import RunFolder
from raydet.train.worker import local_source, train_rank
from tests.integration.runs import label_keys
from tests.training.balanced import run_of

SAME_FRAME: dict[str, object] = {"views": {"short_side": [64, 64]}}  # padding then does not depend on the neighbours


def _work(number: int, world: int, meet: str, text: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=number, world_size=world)
    train_rank(parse(text), Group(number, world), local_source)
    dist.destroy_process_group()


def on_two_ranks(config: DetectionConfig, meet: Path) -> None:
    """Begin a run as `launch` does, and train it by two processes."""
    folder = RunFolder(config.run.dir)
    family_of(config).prepare(config, folder.data)
    folder.prepare(config, resume=False)
    mp.spawn(_work, args=(2, str(meet), config.model_dump_json()), nprocs=2)


def test_two_ranks_see_the_images_of_one_and_one_goes_on_with_what_two_began(tmp_path: Path):
    straight = launch(run_of(tmp_path / "one", method=SAME_FRAME)).path
    # Stopped at step 7, between the rebuild of step 6 and the beginning of its listing at step 8.
    on_two_ranks(run_of(tmp_path / "two", method=SAME_FRAME, run__stop_at=7), tmp_path / "meet")
    before = latest_checkpoint(tmp_path / "two" / "checkpoints")
    assert before is not None and before.step == 7
    learned = before.tensors("memory")
    assert learned["first_steps"].tolist() == [5, 8]
    launch(run_of(tmp_path / "two", method=SAME_FRAME), resume=True)
    after = latest_checkpoint(tmp_path / "two" / "checkpoints")
    assert after is not None and after.tensors("memory")["first_steps"].tolist() == [8, 11]
    assert torch.equal(after.tensors("memory")["repeats"][0], learned["repeats"][1])
    assert label_keys(tmp_path / "two") == label_keys(straight)  # the images and teachers of every step
