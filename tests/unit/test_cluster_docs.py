"""The cluster files of the documentation, as far as they can be checked without a cloud."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import ray
import yaml

from raydet.cluster.needs import check_fits, claims_of
from raydet.errors import ConfigError
from raydet.settings import load

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "cluster"


def test_the_launcher_file_has_keys_that_ray_knows():
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    content = yaml.safe_load((FOLDER / "launcher_aws.yaml").read_text())
    jsonschema.validate(content, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**content, "idle_timeout_minute": 1}, schema)
    assert content["head_node_type"] in content["available_node_types"]


def test_the_job_of_the_manifest_fits_its_own_cluster(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    spec = yaml.safe_load((FOLDER / "rayjob.yaml").read_text())["spec"]
    words = spec["entrypoint"].split()
    assert words[:3] == ["python", "jobs/train.py", "--config"]
    assert words[4] == "--start-or-resume"
    config = load(words[3], words[5:])

    nodes = []
    for group in spec["rayClusterSpec"]["workerGroupSpecs"]:
        (container,) = group["template"]["spec"]["containers"]
        limits = container["resources"]["limits"]
        custom = json.loads(json.loads(group["rayStartParams"]["resources"]))
        node = {"CPU": float(limits["cpu"]), "GPU": float(limits["nvidia.com/gpu"]), **custom}
        nodes += [node] * group["maxReplicas"]
    check_fits(claims_of(config), nodes)
    with pytest.raises(ConfigError):
        check_fits(claims_of(config), nodes[:-1])  # every place is needed
