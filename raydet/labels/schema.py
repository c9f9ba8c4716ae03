"""How labels look on disk and on the wire: Arrow schemas. Needs no torch; `raydet.labels.convert` makes the records."""

from __future__ import annotations

import pyarrow as pa

KEY_FIELDS = (
    pa.field("image_id", pa.string(), nullable=False),
    pa.field("version", pa.int64(), nullable=False),
    pa.field("digest", pa.string(), nullable=False),
)
"""The first columns of every label schema: what the store looks labels up by."""

PSEUDO_BOXES = pa.schema(
    [
        *KEY_FIELDS,
        pa.field("boxes", pa.list_(pa.float32()), nullable=False),  # x1 y1 x2 y2 of box after box, original pixels
        pa.field("classes", pa.list_(pa.int32()), nullable=False),  # 0-based, no background
        pa.field("scores", pa.list_(pa.float32()), nullable=False),  # descending
        pa.field("quality", pa.list_(pa.float32()), nullable=False),
        pa.field("complete_above", pa.float64(), nullable=False),
    ]
)
"""One row per image and teacher version: `raydet.records.PseudoBoxes`."""

PSEUDO_LOGITS = pa.schema(
    [*KEY_FIELDS, pa.field("logits", pa.list_(pa.float32()), nullable=False)]  # one number a class
)
"""One row per image and teacher version: `raydet.records.PseudoLogits`."""

_SHA_256 = 64  # hexadecimal digits


def contradict(one: str, other: str) -> bool:
    """Return whether two digests cannot be of the same weights.

    Runs that were begun with an older raydet have labels with SHA-256, which says nothing about a digest of now.
    """
    return one != other and (len(one) == _SHA_256) == (len(other) == _SHA_256)
