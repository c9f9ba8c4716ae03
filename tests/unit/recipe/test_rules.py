"""Rules of `raydet init` that hold for every family, with the arithmetic beside them."""

from __future__ import annotations

from typing import ClassVar

import pytest

from raydet.config.method import MethodSection, TeacherSection
from raydet.errors import UserError
from raydet.families.localization.config import LocalizationConfig, PsolConfig
from raydet.recipe.document import Setting
from raydet.recipe.machine import GIB, Machine
from raydet.recipe.request import Counts, Request
from raydet.recipe.rules import (
    applicable,
    chosen_method,
    cluster_settings,
    counted,
    data_settings,
    interval,
    keep_rate,
    rounded,
    val_count,
    without_val,
)

CPU = Machine(2, 8 * GIB)


def request(labels: int | None = None, **sets: str) -> Request:
    return Request("runs/x", {name: {"path": path} for name, path in sets.items()}, CPU, labels)


def values(settings: list) -> dict:
    return {setting.key: setting.value for setting in settings}


@pytest.mark.parametrize(
    ("value", "result"), [(0.2, 1), (7.6, 8), (14.4, 14), (1342, 1300), (2049, 2000), (99_600, 100_000)]
)
def test_two_digits_count(value: float, result: int):
    assert rounded(value) == result


@pytest.mark.parametrize(("labeled", "count"), [(9, 0), (10, 3), (20, 4), (205, 41), (2500, 500), (100_000, 500)])
def test_a_fifth_is_withheld_where_there_are_ten_images(labeled: int, count: int):
    assert val_count(labeled) == count  # 0.2 x 10 = 2, but at least 3


@pytest.mark.parametrize(
    # 1 / (1 - .99) = 100 = 500 / 5; at 499 only .98 (50) fits; 1 / (1 - .9996) = 2,500 <= 178,000 / 5
    ("steps", "rate"),
    [(10, 0.9), (250, 0.98), (499, 0.98), (500, 0.99), (1000, 0.995), (178_000, 0.9996)],
)
def test_an_average_looks_back_over_a_fifth_of_its_steps_at_most(steps: int, rate: float):
    assert keep_rate(steps) == rate


def test_a_run_is_evaluated_ten_times():
    assert [interval(steps) for steps in (4, 1000, 1340, 90_000)] == [1, 100, 130, 9000]


def test_labels_that_are_asked_for_leave_the_rest_unlabelled():
    assert counted(request(50, labeled="a", val="v"), 250, 0, 50) == Counts(50, 200, None)


def test_without_a_validation_set_a_fifth_is_withheld_first():
    assert counted(request(50, labeled="a"), 250, 0, 50) == Counts(50, 150, 50)  # 250 - 50 - 50
    assert counted(request(labeled="a"), 250, 0, 50) == Counts(200, 0, 50)


def test_an_unlabelled_set_of_its_own_is_all_there_is_without_labels():
    assert counted(request(50, labeled="a", val="v", unlabeled="u"), 250, 1000, 50) == Counts(50, 1000, None)


def test_more_labels_than_there_are_is_one_message():
    with pytest.raises(
        UserError, match=r"--labels 201: the labelled set has 200 images beside the 50 that are withheld"
    ):
        counted(request(201, labeled="a"), 250, 0, 50)


def test_a_handful_of_images_is_not_evaluated_and_the_file_says_so():
    few = counted(request(labeled="a"), 9, 0, 0)
    assert few == Counts(9, 0, None) and "NOTHING IS EVALUATED" in without_val(request(labeled="a"), few)[0]
    assert values(data_settings(request(labeled="a"), few)) == {"data.labeled": "a"}
    assert without_val(request(labeled="a", val="v"), few) == []


def test_the_data_section_names_what_was_found():
    wanted = request(5, labeled="a", unlabeled="u", test="t")
    assert values(data_settings(wanted, Counts(5, 70, 3))) == {
        "data.labeled": "a",
        "data.labeled_count": 5,
        "data.unlabeled": "u",
        "data.val_count": 3,
        "data.test": "t",
    }


def test_one_process_on_a_cpu_and_on_one_gpu_a_worker_for_each_of_several():
    assert values(cluster_settings(CPU)) == {"cluster.backend": "process", "cluster.cpus_per_worker": 2}
    assert values(cluster_settings(Machine(16, GIB, (GIB,))))["cluster.backend"] == "process"
    assert values(cluster_settings(Machine(18, GIB, (GIB,) * 4))) == {
        "cluster.backend": "ray",
        "cluster.workers": 4,
        "cluster.cpus_per_worker": 4,  # 18 // 4
        "cluster.gpus_per_worker": 1,
    }


def test_no_class_gives_its_last_image_away_for_evaluation():
    assert counted(request(labeled="a"), 250, 0, 7) == Counts(243, 0, 7)
    assert counted(request(labeled="a"), 250, 0, 2) == Counts(250, 0, None)  # two images measure nothing


def test_threads_leave_busy_cores_alone():
    assert [Machine(4, GIB, load=load).free_cpus for load in (0.0, 0.4, 1.6, 3.0, 20.0)] == [4, 4, 2, 1, 1]
    said = cluster_settings(Machine(2, GIB, load=20.0))[1]
    assert said.value == 1 and "(load 20.0): 2 when they are not" in said.why


class OneStageConfig(MethodSection):
    one_stage: ClassVar[bool] = True
    views: int = 0


def test_a_rule_is_for_every_method_that_has_the_setting():
    burn_in, rate = Setting("method.burn_in_steps", 5), Setting("method.ema_keep_rate", 0.9)
    sides = Setting("method.views.short_side", [4, 8])
    proposed = [burn_in, rate, sides]
    assert applicable(MethodSection, proposed) == [burn_in]
    assert applicable(TeacherSection, proposed) == [burn_in, rate]
    assert applicable(OneStageConfig, proposed) == [sides]  # there is nothing to burn in


def test_a_method_is_chosen_among_those_of_its_family():
    counts = Counts(20, 0, None)
    assert chosen_method(request(labeled="a"), LocalizationConfig, counts) is None
    asked = Request("runs/x", {}, CPU, method="psol")
    assert chosen_method(asked, LocalizationConfig, counts) is PsolConfig
    with pytest.raises(UserError, match="--method il_net: a localizer is trained by lchp, psol, cam; choose one"):
        chosen_method(Request("runs/x", {}, CPU, method="il_net"), LocalizationConfig, counts)
