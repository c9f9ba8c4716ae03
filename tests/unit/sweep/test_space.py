"""Space files and the points they make."""

from __future__ import annotations

from pathlib import Path

import pytest
from ray import tune

from raydet.errors import ConfigError
from raydet.settings import load
from raydet.sweep.points import check_points, draw_points, points_of, seeded
from raydet.sweep.space import Asha, SpaceError, Sweep, load_sweep, problems_of
from tests.helpers import tiny_config

ROOT = Path(__file__).parents[3]
HEAD = "from ray import tune\nfrom raydet.sweep.space import Asha, Sweep\n"


def space_file(folder: Path, text: str) -> Path:
    file = folder / "mine.py"
    file.write_text(HEAD + text)
    return file


@pytest.mark.parametrize("file", sorted((ROOT / "tune_spaces").glob("*.py")), ids=lambda file: file.stem)
def test_every_shipped_space_suits_the_paper_config_and_the_small_one(file: Path, monkeypatch: pytest.MonkeyPatch):
    sweep = load_sweep(file)
    points = points_of(sweep)
    bases, judged = {
        "r2d2": (["r2d2_signdigits"], ("error", "min")),
        "lchp": (["lchp_foda", "lchp_cub"], ("gt_known", "max")),
        "adep": (["adept_foda", "adept_coco"], ("recall_100", "max")),
    }.get(file.stem[:4], (["il_net_bccd", "il_net_coco10"], ("AP", "max")))
    if file.stem == "fewshot_voc":
        bases, judged = ["fewshot_voc"], ("AP50novel", "max")
    if file.stem.startswith("gradient_sampling"):
        # The rows of Tables 4 and 5 are whole method sections, with the papers' lengths.
        is_small = file.stem not in ("gradient_sampling_hosts", "gradient_sampling_baselines")
        bases = ["gradient_sampling_coco_split1", *(["gradient_sampling_foda"] if is_small else [])]
    for name in bases:
        base = load(ROOT / "jobs" / "configs" / f"{name}.yaml")
        assert sweep.judged_by(base) == judged
        check_points(base.model_dump(mode="json"), points, where=name)


def test_the_papers_tables_have_as_many_points_as_rows():
    il_net = {"beta": 4, "iou_filter": 3, "iou_target": 6, "iou_threshold": 5, "branch_inputs": 6}
    without_elu = {"il_net_iou_target": 0.75, "il_net_iou_threshold": 0.5}  # one row of the paper, of another network
    r2d2 = {"strategies": 5, "class_loss_weight": 5, "entropy_weight": 5, "class_loss_type": 3}
    lchp = {"attention_threshold": 4, "localizer_backbone": 3, "strong_views": 7}  # tau = 0 has no figure: it failed
    rows = {f"il_net_{name}": number for name, number in il_net.items()}
    balanced = {"beta": 3, "gamma": 3, "samplers": 4, "hosts": 2, "baselines": 3}
    rows |= {f"gradient_sampling_{name}": number for name, number in balanced.items()}
    rows |= {f"lchp_{name}": number for name, number in lchp.items()}
    rows["fewshot_voc"] = 15
    for name, number in (rows | {f"r2d2_{name}": number for name, number in r2d2.items()}).items():
        sweep = load_sweep(ROOT / "tune_spaces" / f"{name}.py")
        points = points_of(sweep)
        assert len(points) == number
        values = [point.values[sweep.keys[0]] for point in points]
        missing = [value for value in values if value not in sweep.published.values]
        assert missing == [without_elu[name]] if name in without_elu else not missing, name


def test_published_figures_of_networks_without_elu_stand_beside_such_networks_only():
    # By the configurations published with IL-net's code: Table 2, Fig. 3b and the row that Tables 3 and 4 share.
    activation = "method.iou_branch.activation"
    for file in (ROOT / "tune_spaces").glob("il_net_*.py"):
        sweep = load_sweep(file)
        values = list(sweep.published.values.values()) if sweep.published else []
        is_without = sweep.settings.get(activation) == "none"
        assert is_without == (file.stem in ("il_net_iou_filter", "il_net_branch_loss")), file.stem
        assert is_without or 31.604 not in values, file.stem


def test_a_grid_is_crossed_in_the_order_of_the_keys():
    space = {"optim.lr": tune.grid_search([1e-3, 2e-3]), "seed": tune.grid_search([0, 1])}
    values = [point.values for point in points_of(Sweep("?", space))]
    assert values == [
        {"optim.lr": 1e-3, "seed": 0},
        {"optim.lr": 1e-3, "seed": 1},
        {"optim.lr": 2e-3, "seed": 0},
        {"optim.lr": 2e-3, "seed": 1},
    ]


def test_draws_repeat_with_the_seed_and_equal_draws_are_one_point():
    sweep = Sweep("?", {"method.score_threshold": tune.uniform(0.5, 0.9)}, samples=5)
    assert points_of(sweep, seed=1) == points_of(sweep, seed=1) != points_of(sweep, seed=2)
    coin = Sweep("?", {"method.unsup_reg_weight": tune.choice([0.0, 1.0])}, samples=50)
    assert len(points_of(coin)) == 2


def test_values_are_plain_numbers():
    sweep = Sweep("?", {"method.burn_in_steps": tune.randint(1, 3), "optim.lr": tune.loguniform(1e-4, 1e-3)}, samples=3)
    for point in [*points_of(sweep), *draw_points(sweep, 3)]:
        assert type(point.values["method.burn_in_steps"]) is int and type(point.values["optim.lr"]) is float


def test_a_seed_moves_the_labelled_split_along(tmp_path: Path):
    base = tiny_config(tmp_path, seed=3, data__split_seed=10)
    (point,) = points_of(Sweep("?", {"optim.lr": tune.grid_search([1e-3])}))
    expected = {"optim.lr": 1e-3, "seed": 5, "data.split_seed": 15}  # 10 + 5
    assert seeded(point, Sweep("?", {"optim.lr": tune.grid_search([1e-3])}), 5, base) == expected


def test_an_unknown_key_is_named_with_the_nearest_known_one(tmp_path: Path):
    base = tiny_config(tmp_path).model_dump(mode="json")
    points = points_of(Sweep("?", {"method.iou_filter_treshold": tune.grid_search([0.4])}))
    with pytest.raises(ConfigError, match="point 0.*iou_filter_treshold.*did you mean method.iou_filter_threshold"):
        check_points(base, points, where="mine.yaml")


def test_a_bad_value_in_the_last_point_is_found_before_the_first_one_runs(tmp_path: Path):
    base = tiny_config(tmp_path).model_dump(mode="json")
    points = points_of(Sweep("?", {"method.iou_filter_threshold": tune.grid_search([0.4, 0.5, 1.5])}))
    with pytest.raises(ConfigError, match=r"point 2 of the search \(method.iou_filter_threshold=1.5\)"):
        check_points(base, points, where="mine.yaml")


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        (Sweep("?"), "empty or ambiguous"),
        (Sweep("?", {"seed": tune.grid_search([])}), "the grid is empty"),
        (Sweep("?", {"seed": tune.grid_search([1, 1])}), "holds a value twice"),
        (Sweep("?", {"seed": [1, 2]}), "expected tune.grid_search"),
        (Sweep("?", {"seed": tune.sample_from(lambda spec: 1)}), "sample_from"),
        (Sweep("?", {"seed": tune.randint(0, 9)}, metric="mAP"), "never reported; choose one of AP, AP50"),
        (Sweep("?", {"seed": tune.randint(0, 9)}, metric="error", mode="max"), "error is best at its min"),
        (Sweep("?", {"seed": tune.randint(0, 9)}, mode="min"), "best at its max"),
        (Sweep("?", {"seed": tune.randint(0, 9)}, mode="mean"), "mode='mean'"),
        (Sweep("?", {"seed": tune.randint(0, 9)}, samples=0), "at least 1"),
        (Sweep("?", {"seed": tune.grid_search([1])}, search="optuna"), "nothing to choose"),
        (Sweep("?", {"seed": tune.randint(0, 9)}, scheduler="pbt"), "population based training is not supported"),
        (Sweep("?", {"seed": tune.randint(0, 9)}, scheduler=Asha(0)), "grace_steps"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_search_that_cannot_be_meant_is_refused(sweep: Sweep, message: str):
    assert any(message in problem for problem in problems_of(sweep))


def test_rays_own_population_based_training_is_refused_with_the_reason():
    from ray.tune.schedulers import PopulationBasedTraining

    scheduler = PopulationBasedTraining(hyperparam_mutations={"optim.lr": [1e-3]})
    sweep = Sweep("?", {"optim.lr": tune.choice([1e-3])}, scheduler=scheduler)
    assert any("no configuration that `raydet train` could repeat" in problem for problem in problems_of(sweep))


def test_a_value_that_is_not_plain_data_is_refused():
    with pytest.raises(SpaceError, match="not plain data"):
        points_of(Sweep("?", {"run.dir": tune.grid_search([Path("x")])}))


def test_a_broken_space_file_is_named_with_its_line(tmp_path: Path):
    with pytest.raises(SpaceError, match=r"mine.py, line 3: NameError"):
        load_sweep(space_file(tmp_path, "sweep = Sweeep()\n"))
    with pytest.raises(SpaceError, match="defines no `sweep"):
        load_sweep(space_file(tmp_path, "space = {}\n"))
    with pytest.raises(SpaceError, match="no such space file"):
        load_sweep(tmp_path / "absent.py")
