"""Several ranks of one run as plain processes: what two workers do, without what Ray Train takes to start them.

The processes are started once for a test session and kept. That Ray's workers do the same, to the bit, is what
`test_training.py` and `test_nodes.py` show of disturbed runs.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from unittest import mock

from raydet.config.run import RunConfig

LONGEST_S = 200


@dataclass
class Ranks:
    """Processes that train together whenever they are told to."""

    processes: list[tuple[SpawnProcess, Connection]] = field(default_factory=list)

    def train(self, config: RunConfig) -> None:
        """Train as `config.cluster.workers` ranks, to the end."""
        world = config.cluster.workers
        while len(self.processes) < world:
            self._start_one()
        with tempfile.TemporaryDirectory() as folder:
            for rank, (_, pipe) in enumerate(self.processes[:world]):
                pipe.send((config.model_dump_json(), rank, world, str(Path(folder) / "meeting_point")))
            said = [self._answer(rank) for rank in range(world)]
        wrong = [text for text in said if text]
        if wrong:
            self.end()  # the other ranks may wait for ever
            raise RuntimeError("\n".join(wrong))

    @contextmanager
    def instead_of_ray(self) -> Iterator[None]:
        """Let `launch` train on these processes where `cluster.backend` is `ray`."""
        with mock.patch("raydet.train.on_ray.train_on_ray", self.train):
            yield

    @contextmanager
    def losing_one(self, when: Callable[[], bool]) -> Iterator[None]:
        """Kill a rank as soon as `when()` holds, and say so: RuntimeError."""

        def kill() -> None:
            while not when() and not is_over.wait(0.002):
                pass
            if not is_over.is_set():
                self.processes[1][0].kill()

        is_over = threading.Event()
        killer = threading.Thread(target=kill, daemon=True)
        killer.start()
        try:
            yield
        finally:
            is_over.set()
            killer.join()

    def end(self) -> None:
        """Stop all processes."""
        for process, _ in self.processes:
            process.kill()
            process.join()
        self.processes.clear()

    def _start_one(self) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs,), daemon=True)
        process.start()
        theirs.close()
        self.processes.append((process, ours))

    def _answer(self, rank: int) -> str:
        process, pipe = self.processes[rank]
        if not pipe.poll(LONGEST_S):
            return f"rank {rank} takes longer than {LONGEST_S} s"
        try:
            text: str = pipe.recv()
        except EOFError:
            process.join(5)
            return f"rank {rank} ended with {process.exitcode}"
        return text


def _serve(pipe: Connection) -> None:
    import torch
    import torch.distributed as dist

    from raydet.group import Group
    from raydet.settings import parse
    from raydet.train.worker import local_source, train_rank

    torch.set_num_threads(1)
    while True:
        try:
            text, rank, world, meeting_point = pipe.recv()
        except EOFError:
            return
        try:
            dist.init_process_group("gloo", init_method=f"file://{meeting_point}", rank=rank, world_size=world)
            train_rank(parse(text), Group(rank, world), local_source)
            dist.barrier()
            dist.destroy_process_group()
        except Exception:
            pipe.send(f"rank {rank}:\n{traceback.format_exc()}")
        else:
            pipe.send("")
