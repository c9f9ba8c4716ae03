"""`gradient_sampling_hosts.py` in small: the rows with the settings of jobs/configs/gradient_sampling_foda.yaml."""

from raydet.sweep.space import Sweep

SHARED: dict[str, object] = {
    "name": "gradient_sampling",
    "host": "unbiased_teacher",
    "burn_in_steps": 300,
    "ema_keep_rate": 0.99,
    "pseudo_score_floor": 0.4,
    "unsup_weight": 1.0,
}
OFF = {"gbr_enabled": False, "gbt_enabled": False, "labeled_sampling": "random", "unlabeled_sampling": "random"}
WARM_UP = {f"{part}_warmup_steps": 50 for part in ("gbr", "gbt", "crs")}
OURS = {"crs_rebuild_steps": 100, "gbr_ema": 0.98, "weight_logits_lr": 0.02, **WARM_UP}

sweep = Sweep(
    question="What does gradient-based sampling add to Unbiased Teacher?",
    variants={"Unbiased Teacher": {"method": {**SHARED, **OFF}}, "+ ours": {"method": {**SHARED, **OURS}}},
)
