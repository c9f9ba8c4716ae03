from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydet.data.boxes.formats import json_stream
from raydet.data.boxes.formats.json_stream import stream_object
from raydet.errors import DataError

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
entries = st.dictionaries(st.sampled_from(["x", "},", "]"]), values | st.sampled_from(["},", "}, {", "]"]), max_size=3)
lists = st.lists(values, max_size=5) | st.lists(entries, max_size=30)
objects = st.fixed_dictionaries({}, optional={"a": lists, "b": lists, "c": values})


def collect(path: Path, keys: str = "ab") -> tuple[dict[str, list[Any]], set[str]]:
    found: dict[str, list[Any]] = {key: [] for key in keys}

    def handler(key: str) -> json_stream.Handler:
        def take(first: int, elements: list[Any]) -> None:
            assert first == len(found[key]) and elements
            found[key].extend(elements)

        return take

    return found, stream_object(path, {key: handler(key) for key in keys})


@given(content=objects, chunk=st.integers(1, 400), indent=st.sampled_from([None, 2]), ascii=st.booleans())
@settings(max_examples=300)
def test_pieces_of_any_size_give_what_json_gives(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any], chunk: int, indent: int | None, ascii: bool
) -> None:
    path = tmp_path_factory.mktemp("json") / "x.json"
    path.write_text(json.dumps(content, indent=indent, ensure_ascii=ascii), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "_CHUNK", chunk)
        found, keys = collect(path)
    assert keys == content.keys()
    assert found == {key: content.get(key, []) for key in "ab"}


@given(content=objects, cut=st.floats(0, 1), chunk=st.integers(1, 40))
@settings(max_examples=80)
def test_a_cut_file_is_always_refused(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any], cut: float, chunk: int
) -> None:
    path = tmp_path_factory.mktemp("json") / "x.json"
    data = json.dumps(content).encode()
    path.write_bytes(data[: int(cut * len(data) - 1e-9)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "_CHUNK", chunk)
        if path.read_bytes() != data:
            with pytest.raises(DataError, match=r"x\.json: (not valid JSON|the top level is empty)"):
                collect(path)


def test_a_file_that_ends_in_a_number_has_the_right_place(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"a": 12')
    with pytest.raises(DataError, match="line 1, character 8: expected ',' or '}'; the file seems to be cut off"):
        collect(tmp_path / "x.json", "")


def test_numbers_cut_by_the_window_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.json").write_text('{"a": [10.25, -3e-7, 12], "c": 0.5}')
    for chunk in range(1, 30):
        monkeypatch.setattr(json_stream, "_CHUNK", chunk)
        assert collect(tmp_path / "x.json")[0]["a"] == [10.25, -3e-7, 12]


def test_the_place_of_an_error_counts_lines_that_left_the_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_stream, "_CHUNK", 16)
    path = tmp_path / "x.json"
    text = '{"a": [\n' + "".join(f"  {n},\n" for n in range(100)) + "  oops\n]}"
    path.write_text(text)
    with pytest.raises(DataError, match=rf"line 102, character {text.index('oops')}: Expecting value$"):
        collect(path)


def test_objects_come_many_at_a_time_and_never_without_their_end(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    content = {"a": [{"n": n, "inner": {"m": [n]}, "text": "},"} for n in range(50_000)], "b": [{}] * 3}
    path.write_text(json.dumps(content))  # 2.6 MB: several windows
    calls: list[int] = []
    found: list[Any] = []

    def take(first: int, elements: list[Any]) -> None:
        assert first == len(found)
        found.extend(elements)
        calls.append(len(elements))

    assert stream_object(path, {"a": take}) == {"a", "b"}
    assert found == content["a"]
    assert max(calls) > 10_000 and len(calls) < 100


@pytest.mark.parametrize(
    "text", ['{"a": [{"x": 1},]}', '{"a": [{"x": 1},], "b": [{"y": 2}, 3]}', '{"a": [,{"x": 1},2]}']
)
def test_a_comma_too_many_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DataError, match="not valid JSON at line 1"):
        collect(tmp_path / "x.json")


def test_the_search_for_cycles_is_as_it_was_afterwards(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"a": [1, oops]}')
    assert gc.isenabled()
    with pytest.raises(DataError):
        collect(tmp_path / "x.json")
    assert gc.isenabled()
