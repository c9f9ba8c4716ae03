"""Labelling any number of images with a saved model: `raydet label`. See docs/labelling.md and decision 012.

IMAGES -> listing.jsonl (sorted names) -> shards of consecutive names -> pieces, one call to an actor each
       -> shards/part-00000000.parquet (what the model said) -> coco.json (what exceeds the threshold), skipped.csv
"""
