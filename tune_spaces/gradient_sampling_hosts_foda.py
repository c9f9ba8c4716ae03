"""`gradient_sampling_hosts.py` in small: the rows with the settings of jobs/configs/gradient_sampling_foda.yaml."""

from raydet.sweep.space import Sweep

SHARED: dict[str, object] = {
    "name": "gradient_sampling",
    "host": "unbiased_teacher",
    "burn_in_steps": 2000,
    "ema_keep_rate": 0.99,
    "pseudo_score_floor": 0.4,
    "unsup_weight": 1.0,
}
OFF = {"gbr_enabled": False, "gbt_enabled": False, "labeled_sampling": "random", "unlabeled_sampling": "random"}
WARM_UP = {"gbr_warmup_steps": 200, "gbt_warmup_steps": 50, "crs_warmup_steps": 50}
OURS = {"crs_rebuild_steps": 100, "gbr_ema": 0.995, "weight_logits_lr": 0.005, **WARM_UP}

sweep = Sweep(
    question="What does gradient-based sampling add to Unbiased Teacher?",
    variants={"Unbiased Teacher": {"method": {**SHARED, **OFF}}, "+ ours": {"method": {**SHARED, **OURS}}},
)
