import os

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import hypothesis  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")
