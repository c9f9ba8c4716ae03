"""Readers of annotation formats. Each yields plain records; `raydet.data.boxes.index` checks and stores them."""
