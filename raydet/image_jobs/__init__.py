"""Something said of any number of images, once and for good: the worker of `raydet label` and `raydet proposals`.

IMAGES -> listing.jsonl (sorted names) -> shards of consecutive names -> pieces, one call to an actor each
       -> shards/part-00000000.parquet: a row per image. What a row says is a `worker.Task`'s; see decision 012.
"""
