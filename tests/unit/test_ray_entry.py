from __future__ import annotations

import subprocess
import sys


def test_ray_trains_controller_imports_no_network_of_ours():
    code = "import sys, raydet.train.ray_entry; assert not {'torch', 'torchvision', 'ray', 'pandas'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
