from __future__ import annotations

from ray.exceptions import OutOfMemoryError, RayActorError

from raydet.image_jobs.actors import _last_line


def test_why_an_actor_was_lost_is_one_line_with_advice_where_memory_was_short():
    short = OutOfMemoryError("Memory on the node was 15.3GB used / 16GB limit\nTo disable worker killing, set ...")
    assert _last_line(short) == (
        "its node ran out of memory, so Ray ended it (Memory on the node was 15.3GB used / 16GB limit); lower --actors"
    )
    assert _last_line(RayActorError()) == "The actor experienced an error before finishing this task."
