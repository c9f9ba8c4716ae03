from __future__ import annotations

import tempfile
from contextlib import nullcontext
from pathlib import Path

import pytest

from raydet.files import replacing
from raydet.image_jobs import listing
from raydet.image_jobs.listing import write_listing
from raydet.image_jobs.run import remove_leftovers
from raydet.label_files.run import WORDS

FILES = (
    "listing.jsonl",
    ".listing-now.jsonl",
    "label.json",
    "coco.json",
    "skipped.csv",
    "shards/part-00000003.parquet",
)


def test_what_a_killed_call_was_writing_is_removed_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    kept = {".lock", "label.json", ".coco.json.bak", ".sorting-hat", ".writing-label.json"}
    for name in kept:
        (tmp_path / name).touch()
    # A killed process removes nothing that it was writing.
    monkeypatch.setattr(Path, "unlink", lambda self, missing_ok=False: None)
    monkeypatch.setattr(listing, "TemporaryDirectory", lambda **where: nullcontext(tempfile.mkdtemp(**where)))
    for name in FILES:
        with pytest.raises(KeyboardInterrupt), replacing(tmp_path / name):
            raise KeyboardInterrupt
    write_listing(["b", "a"], tmp_path / ".listing-now.jsonl", run_lines=1)
    monkeypatch.undo()
    for name in FILES:
        assert len(list((tmp_path / name).parent.glob(f".writing-????????-{Path(name).name}"))) == 1
    assert [path.name for path in sorted(tmp_path.glob(".sorting-????????/*"))] == ["0", "1"]

    remove_leftovers(tmp_path, WORDS)
    assert {path.name for path in tmp_path.iterdir()} == {*kept, "shards"}
    assert not list((tmp_path / "shards").iterdir())
