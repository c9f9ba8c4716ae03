import os
from collections.abc import Iterator

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import hypothesis  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def floats_as_they_were() -> Iterator[None]:
    """A process of raydet's own flushes denormals for good; a test that plays one in here must not do so to the rest
    (hypothesis refuses to draw floats then)."""
    yield
    torch.set_flush_denormal(False)
