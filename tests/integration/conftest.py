from collections.abc import Iterator

import pytest

from tests.ranks import Ranks


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """One Ray of our own for the whole test session: starting it costs seconds."""
    import ray

    ray.init(
        address="local",
        num_cpus=6,  # logical
        include_dashboard=False,
        namespace="raydet",
        object_store_memory=300 * 2**20,
        log_to_driver=False,
        logging_level="ERROR",
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def ranks() -> Iterator[Ranks]:
    """Processes that train together without Ray."""
    started = Ranks()
    yield started
    started.end()
