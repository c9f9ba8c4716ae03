"""Rows for the label store's tests."""

import pyarrow as pa

from raydet.labels.schema import KEY_FIELDS

SCHEMA = pa.schema([*KEY_FIELDS, pa.field("said", pa.int64())])  # any schema with the key columns will do


def rows(*keys: tuple[int, str], digest: str = "d") -> pa.Table:
    columns = {
        "image_id": [image_id for _, image_id in keys],
        "version": [version for version, _ in keys],
        "digest": [f"{digest}{version}" for version, _ in keys],
        "said": [1000 * version + ord(image_id[0]) for version, image_id in keys],
    }
    return pa.table(columns, schema=SCHEMA)


def said(store, *keys):
    return store.get(keys)["said"].to_pylist()
