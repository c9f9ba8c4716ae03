"""R2-D2, Table 1: what repeating the second stage adds, what reprediction, and what a falling learning rate.

Variant a ends earlier than the others: it has stage 2 once (method.d2_steps), not up to optim.steps.
"""

from raydet.sweep.space import Published, Sweep


def row(repeat: bool, *, reprediction: bool = False, lower_lr: bool = False) -> dict[str, object]:
    """Return the settings of a row."""
    return {
        "method.repeat_stage2": repeat,
        "method.reprediction_enabled": reprediction,
        "method.reduce_lr_enabled": lower_lr,
    }


sweep = Sweep(
    question="What do repetition, reprediction and a falling learning rate add to D2 (a, without, ends earlier)?",
    variants={
        "a: D2 once": row(False),
        "b: repeated": row(True),
        "c: repeated, reprediction": row(True, reprediction=True),
        "d: repeated, lower lr": row(True, lower_lr=True),
        "e: repeated, both": row(True, reprediction=True, lower_lr=True),
    },
    metric="error",
    mode="min",
    published=Published(
        source="R2-D2, Table 1",
        figure="error, CIFAR-10 test, 4000 labels",
        values={
            "a: D2 once": 6.71,
            "b: repeated": 6.37,
            "c: repeated, reprediction": 6.23,
            "d: repeated, lower lr": 5.94,
            "e: repeated, both": 5.78,
        },
    ),
)
