"""LCHP, Table 6: what the strong view should do (S: scale, T: translation, F: flip)."""

from raydet.sweep.space import Published, Sweep

NAMES = ("S", "T", "F", "ST", "SF", "TF", "STF")


def row(letters: str) -> dict[str, object]:
    """Return the settings of a row."""
    keys = {"S": "aug_scale", "T": "aug_translation", "F": "aug_flip"}
    return {f"method.{key}": letter in letters for letter, key in keys.items()}


sweep = Sweep(
    question="What should the strong view do: scale (S), translate (T), flip (F)?",
    variants={name: row(name) for name in NAMES},
    metric="gt_known",
    published=Published(
        source="LCHP, Table 6",
        figure="GT-Known of LCHP-R, CUB-200-2011 test",
        values=dict(zip(NAMES, (91.84, 93.19, 91.77, 93.80, 93.02, 93.92, 94.36), strict=True)),
    ),
)
