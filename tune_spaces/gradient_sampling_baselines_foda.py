"""`gradient_sampling_baselines.py` in small: the rows with the settings of jobs/configs/gradient_sampling_foda.yaml."""

from raydet.sweep.space import Sweep

SHARED: dict[str, object] = {
    "burn_in_steps": 2000,
    "ema_keep_rate": 0.99,
    "cls_pseudo_threshold": 0.7,
    "rpn_pseudo_threshold": 0.7,
    "pseudo_score_floor": 0.4,
    "unsup_weight": 1.0,
    "views": {"short_side": [160, 224]},
}
WARM_UP = {"gbr_warmup_steps": 200, "gbt_warmup_steps": 50, "crs_warmup_steps": 50}
OURS = {"crs_rebuild_steps": 100, "gbr_ema": 0.995, "weight_logits_lr": 0.005, **WARM_UP}

sweep = Sweep(
    question="Which method for rare classes works best on Soft Teacher?",
    variants={
        "logit adjustment": {"method": {"name": "logit_adjustment", **SHARED}},
        "classifier retraining": {"method": {"name": "classifier_retraining", "retrain_from_step": 2480, **SHARED}},
        "EQLv2": {"method": {"name": "eqlv2", **SHARED}},
        "ours": {"method": {"name": "gradient_sampling", **SHARED, **OURS}},
    },
)
