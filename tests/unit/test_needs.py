"""The arithmetic of what a run claims of a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydet.cluster.needs import Claim, check_fits, claims_of, idle_gpus, total
from raydet.errors import ConfigError
from tests.helpers import tiny_config

POOL = {
    "cluster__backend": "ray",
    "cluster__workers": 4,
    "cluster__min_workers": 2,
    "cluster__cpus_per_worker": 2.0,
    "cluster__gpus_per_worker": 1,
    "labels__source": "pool",
    "labels__lookahead": 2,
    "pool__actors": 2,
    "pool__min_actors": 1,
    "pool__max_actors": 3,
    "pool__gpus_per_actor": 0.5,
    "pool__resources": {"teacher": 1.0},
}


def test_a_run_claims_its_workers_and_its_largest_pool(tmp_path: Path):
    claims = claims_of(tiny_config(tmp_path, **POOL))
    # 4 workers x 2 CPU + 3 teachers x 1 CPU; 4 x 1 GPU + 3 x 0.5 GPU; 3 x 1 teacher
    assert total(claims) == {"CPU": 11.0, "GPU": 5.5, "teacher": 3.0}


def test_at_least_it_claims_the_smallest_group_and_pool(tmp_path: Path):
    claims = claims_of(tiny_config(tmp_path, **POOL), least=True)
    assert total(claims) == {"CPU": 5.0, "GPU": 2.5, "teacher": 1.0}  # 2 x 2 + 1; 2 + 0.5; 1


def test_a_run_without_ray_claims_nothing(tmp_path: Path):
    assert claims_of(tiny_config(tmp_path)) == []


def test_what_can_never_fit_is_refused_with_the_sum(tmp_path: Path):
    claims = claims_of(tiny_config(tmp_path, **POOL))
    with pytest.raises(
        ConfigError, match=r"GPU: 4 for 4 workers \+ 1.5 for 3 teachers, together 5.5; the cluster has 4"
    ):
        check_fits(claims, [{"CPU": 32.0, "GPU": 4.0, "teacher": 8.0}])


def test_a_process_must_fit_on_one_node():
    claims = [Claim("worker", 1, {"GPU": 2.0})]
    with pytest.raises(ConfigError, match="each of 1 worker needs 2 GPU on one node"):
        check_fits(claims, [{"GPU": 1.0}, {"GPU": 1.0}])
    check_fits(claims, [{"GPU": 2.0}])


def test_gpus_that_nothing_asks_for_are_told(tmp_path: Path):
    on_cpus = claims_of(tiny_config(tmp_path, cluster__backend="ray"))
    assert idle_gpus(on_cpus, [{"CPU": 8.0}, {"CPU": 8.0, "GPU": 1.0}]) == [
        "the cluster has 1 GPU, and none is asked for: all is done on CPUs; cluster.gpus_per_worker=1 uses them"
    ]
    assert idle_gpus(on_cpus, [{"CPU": 8.0}]) == []
    assert idle_gpus(claims_of(tiny_config(tmp_path, **POOL)), [{"GPU": 8.0}]) == []
    assert idle_gpus(claims_of(tiny_config(tmp_path)), [{"GPU": 1.0}]) == []  # a process takes the GPU that is there
