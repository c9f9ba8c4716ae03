from __future__ import annotations

import pickle
import pickletools
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raydet.data.classes.formats.plain_pickle import read_plain_pickle
from raydet.errors import DataError
from tests.tiny_images import LABELS, cifar_pixels, python2_pickle


def batch(**change: Any) -> dict[str, Any]:
    content: dict[str, Any] = {"data": cifar_pixels(LABELS), "labels": list(LABELS)}
    return {key: value for key, value in {**content, **change}.items() if value is not None}


def test_every_way_to_name_something_forbidden_is_refused(tmp_path: Path) -> None:
    marker, file = tmp_path / "marker", tmp_path / "evil"
    command = f"touch {marker}".encode()
    by_instruction = {
        "GLOBAL": b"cposix\nsystem\n(U" + bytes([len(command)]) + command + b"tR.",
        "INST": b"(S'" + command + b"'\niposix\nsystem\n.",
        "OBJ": b"(cposix\nsystem\nU" + bytes([len(command)]) + command + b"o.",
        "EXT1": b"\x80\x02\x82\x01.",
        "PERSID": b"Psomething\n.",
        "builtins": b"cbuiltins\neval\n(S'1'\ntR.",
        "ndarray": b"cnumpy\nndarray\n(K\x05tR.",
        "a method of an allowed module": b"cnumpy\nload\n(S'x'\ntR.",
        "an attribute of an allowed name": b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93.",
    }
    for content in by_instruction.values():
        file.write_bytes(content)
        with pytest.raises(DataError, match="evil: .*(not allowed|not a published CIFAR file)"):
            read_plain_pickle(file)
    assert not marker.exists()


def test_a_pickle_cannot_change_what_the_next_one_meets(tmp_path: Path) -> None:
    file = tmp_path / "evil"
    for name in (b"cnumpy\nndarray\n", b"c_codecs\nencode\n", b"cnumpy.core.multiarray\n_reconstruct\n"):
        file.write_bytes(b"\x80\x02" + name + b"N}U\x05_callK\x01s\x86b.")  # a state of slots: _call = 1
        with pytest.raises(DataError, match="the pickle changes a function"):
            read_plain_pickle(file)
    file.write_bytes(python2_pickle(batch()))
    assert read_plain_pickle(file)["data"].shape == (6, 3072)


def test_arrays_of_anything_but_bytes_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "batch"
    for array in (np.zeros((2, 2)), np.array([{}, []], dtype=object), np.zeros(2, dtype="V8")):
        for protocol in (2, 4, 5):
            file.write_bytes(pickle.dumps({"data": array}, protocol))
            with pytest.raises(DataError, match="batch: .*not a published CIFAR file"):
                read_plain_pickle(file)


def test_promises_that_a_file_cannot_keep_are_refused_before_they_cost_memory(tmp_path: Path) -> None:
    file = tmp_path / "batch"
    shape = python2_pickle(batch()).replace(struct.pack("<i", 3072) + b"\x86", struct.pack("<i", 1 << 30) + b"\x86")
    huge = {
        "truncated": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"x.",
        "a NoneType instead of a dict": b"\x80\x02Nr" + struct.pack("<I", (1 << 32) - 1) + b".",  # a place in the memo
        "content does not fit its shape": shape,
        "more than 100 dicts, lists and tuples": b"\x80\x02}" + b"]" * 100,
    }
    tracemalloc.start()
    for message, content in huge.items():
        file.write_bytes(content)
        with pytest.raises(DataError, match=f"batch: .*{message}"):
            read_plain_pickle(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_a_small_pickle_cannot_take_long(tmp_path: Path) -> None:
    file = tmp_path / "batch"
    # Tuples of three times the tuple before: 3 ** 31 steps to hash the last one.
    nested = b"U\x01a)q\x00s" + b"U\x01ah\x00h\x00h\x00\x87q\x00s" * 31 + b"h\x00K\x01s"
    text = b"X\xff\x00\x00\x00" + b"x" * 255
    encoded = b"(c_codecs\nencode\nq\x00" + text + b"U\x06latin1\x86q\x01R" + b"h\x00h\x01R" * 10 + b"u"
    long = {
        "more than 2,097,152 pickle instructions": b"U\x01a(" + b"K\x01" * (1 << 21) + b"ls",
        "a key that is not text": nested,
        "encodes the same text over and over": encoded,
        "shape is not a few whole numbers": python2_pickle(batch())[3:].replace(b"J\x00\x0c\x00\x00\x86", b")\x86"),
    }
    for message, content in long.items():
        file.write_bytes(b"\x80\x02}" + content + b".")
        with pytest.raises(DataError, match=f"batch: .*{message}.*; this is not a published CIFAR file"):
            read_plain_pickle(file)


def test_a_file_as_large_as_a_published_one_is_read(tmp_path: Path) -> None:
    labels = [0] * 50_000
    content = {"fine_labels": labels, "coarse_labels": labels[:-1], "filenames": ["x.png"] * 50_000}
    assert sum(1 for _ in pickletools.genops(pickle.dumps(content, 2))) > 150_000
    (tmp_path / "train").write_bytes(pickle.dumps(content, 2))
    assert read_plain_pickle(tmp_path / "train") == content


def test_instructions_on_the_wrong_kind_of_value_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "batch"
    wrong = {
        "appends to something that is not a list": b"}K\x01a.",
        "sets items of something that is not a dict": b"]K\x01K\x02s.",
        "calls something that is not a function": b"K\x01)R.",
        "changes a dict": b"}}b.",
        "asks for something without a name": b"K\x01K\x02\x93.",
        "the pickle instruction POP is not allowed": b"}0.",
        r"truncated or damaged \(pop from empty list\)": b"e.",
        "it holds a list instead of a dict": b"].",
    }
    for message, content in wrong.items():
        file.write_bytes(b"\x80\x02" + content)
        with pytest.raises(DataError, match=f"batch: .*{message}"):
            read_plain_pickle(file)


def test_the_helper_writes_what_python_2_wrote() -> None:
    names = {op.name for op, _, _ in pickletools.genops(python2_pickle(batch()))}
    assert {"BINSTRING", "GLOBAL", "REDUCE", "BUILD"} <= names and "BINBYTES" not in names
    loaded = pickle.loads(python2_pickle(batch()), encoding="bytes")
    assert np.array_equal(loaded[b"data"], cifar_pixels(LABELS)) and loaded[b"labels"] == list(LABELS)


def test_pickles_damaged_anywhere_are_refused_or_read(tmp_path: Path) -> None:
    file, rng = tmp_path / "test_batch", np.random.default_rng(0)
    whole, outcomes = pickle.dumps(batch(), protocol=2), set()
    for _ in range(400):
        damaged = bytearray(whole)
        for place in rng.integers(0, 150, size=rng.integers(1, 4)):  # the instructions; pixels may be anything
            damaged[place] = rng.integers(256)
        file.write_bytes(damaged)
        try:
            read_plain_pickle(file)
            outcomes.add("read")
        except DataError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}
