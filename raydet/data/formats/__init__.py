"""Readers of annotation formats. Each yields plain records; `raydet.data.index` checks and stores them."""
