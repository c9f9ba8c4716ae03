"""The classes that published splits make rare or novel, in the papers' order."""

from __future__ import annotations


def _split(names: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in names.split(","))


# Of COCO (Li et al., ICCV 2023); the first are those of Pascal VOC.
MINORITY_CLASSES = {
    "coco_split1": _split(
        "person, bicycle, car, motorcycle, airplane, bus, train, boat, bird, cat, dog, horse, sheep, cow, bottle, "
        "chair, couch, potted plant, dining table, tv"
    ),
    "coco_split2": _split(
        "airplane, bus, boat, traffic light, fire hydrant, parking meter, bird, cat, horse, sheep, cow, elephant, "
        "zebra, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard, baseball glove, wine glass, banana, "
        "apple, sandwich, broccoli, hot dog, pizza, bed, dining table, tv, mouse, remote, keyboard, oven, "
        "refrigerator, book, vase, hair drier, toothbrush"
    ),
}
# Of Pascal VOC (Kang et al., ICCV 2019; Wang et al., ICML 2020).
NOVEL_CLASSES = {
    "voc_split1": _split("bird, bus, cow, motorbike, sofa"),
    "voc_split2": _split("aeroplane, bottle, cow, horse, sofa"),
    "voc_split3": _split("boat, cat, motorbike, sheep, sofa"),
}
