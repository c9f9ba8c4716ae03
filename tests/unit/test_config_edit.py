"""Numbers are set in a config file's text; everything else stays byte for byte."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydet.config.edit import with_values
from raydet.config.load import read_yaml
from raydet.errors import ConfigError

KEY = "method.score_threshold"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("method: {name: a, score_threshold: 0.7}  # x\n", "method: {name: a, score_threshold: 0.5}  # x\n"),
        ("method: {name: a}  # x\n", "method: {name: a, score_threshold: 0.5}  # x\n"),
        ("method: {name: a,}\n", "method: {name: a, score_threshold: 0.5,}\n"),
        ("method: {}", "method: {score_threshold: 0.5}"),
        (
            "method:\n  # which\n  name: a   # the paper's\n  other:   1\noptim: {lr: 1}\n",
            "method:\n  # which\n  name: a   # the paper's\n  score_threshold: 0.5\n  other:   1\noptim: {lr: 1}\n",
        ),
        ("method:\n    name: a", "method:\n    name: a\n    score_threshold: 0.5\n"),
        ("method:\n  score_threshold:  0.70  # why\n", "method:\n  score_threshold:  0.5  # why\n"),
        ("method:\r\n  name: a\r\n  b: 1\r\n", "method:\r\n  name: a\r\n  score_threshold: 0.5\r\n  b: 1\r\n"),
        ("method:\n  list:\n  - 1\n  - 2\n", "method:\n  score_threshold: 0.5\n  list:\n  - 1\n  - 2\n"),
        ("# ü 😀\nmethod: {'score_threshold': 0.7}", "# ü 😀\nmethod: {'score_threshold': 0.5}"),
    ],
)
def test_one_value_changes_and_nothing_else(before: str, after: str):
    assert with_values(before, {KEY: 0.5}, "file") == after
    assert with_values(after, {KEY: 0.5}, "file") == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("method: {name: a}\n", 'method: {name: a, of: {"ä b": 0.5}}\n'),
        ("method:\n  of: {x: 1, y: 2}  # why\n  name: a\n", 'method:\n  of: {"ä b": 0.5}  # why\n  name: a\n'),
        ("method: {of: {}, name: a}", 'method: {of: {"ä b": 0.5}, name: a}'),
        (
            "method:\n  of:\n    x: 1  # about x\n    y: 2  # about y\n  # the name\n  name: a\n",
            'method:\n  of:\n    {"ä b": 0.5}  # about y\n  # the name\n  name: a\n',
        ),
        ("method:\n  of:\n    x: 1", 'method:\n  of:\n    {"ä b": 0.5}'),
    ],
)
def test_a_mapping_of_numbers_takes_the_place_of_another(before: str, after: str):
    values = {"method.of": {"ä b": 0.5}}
    assert with_values(before, values, "file") == after
    assert with_values(after, values, "file") == after
    assert read_yaml(after, "file")["method"]["of"] == {"ä b": 0.5}
    assert read_yaml(with_values(before, {"method.of": {}}, "file"), "file")["method"]["of"] == {}


@pytest.mark.parametrize("old", ["[1]", "1", "{x: [1]}"])
def test_a_mapping_takes_the_place_of_nothing_else(old: str):
    with pytest.raises(ConfigError, match="method.of is not a single value"):
        with_values(f"method: {{of: {old}}}\n", {"method.of": {"x": 1}}, "mine.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim: {lr: 1}\n", "mine.yaml: method is no mapping of settings, so method.score_threshold cannot be set"),
        ("method: il_net\n", "mine.yaml: method is no mapping"),
        ("- 1\n", "mine.yaml: the file is no mapping"),
        ("", "mine.yaml: the file is no mapping"),
        ("method: {score_threshold: [1]}\n", "method.score_threshold is not a single value"),
        ("method: {score_threshold: {a: 1}}\n", "method.score_threshold is not a single value"),
        ("method: {score_threshold\n", "mine.yaml: not valid YAML"),
        ("a: &x 1\nmethod: *x\n", "YAML aliases"),
        ("method: {score_threshold: 1, score_threshold: 2}", "line 1: 'score_threshold' is given again"),
    ],
)
def test_what_cannot_be_set_is_one_message(text: str, message: str):
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        with_values(text, {KEY: 0.5}, "mine.yaml")


names = st.sampled_from(["name", "score_threshold", "b", "iou_filter_threshold", "c"])
comments = st.sampled_from(["", "  # about it", " #: {x: 1}", "   "])
entries = st.lists(
    st.tuples(names, st.sampled_from(["0.7", "a", '"b: c"', "[1, 2]"]), comments),
    min_size=1,
    unique_by=lambda entry: entry[0],
)


@given(entries, st.booleans(), st.sampled_from(["\n", "\r\n"]), st.integers(1, 6), st.booleans())
def test_whatever_the_layout_the_result_reads_as_the_same_with_the_values(
    given_entries: list, is_flow: bool, newline: str, indent: int, ends: bool
):
    rows = {name: (value, comment) for name, value, comment in given_entries}  # a key is there once
    for key in ("score_threshold", "iou_filter_threshold"):
        if key in rows:
            rows[key] = ("0.7", rows[key][1])
    pad = " " * indent
    if is_flow:
        body = "method: {" + ", ".join(f"{k}: {v}" for k, (v, _) in rows.items()) + "}"
    else:
        body = "method:" + "".join(f"{newline}{pad}{k}: {v}{c}" for k, (v, c) in rows.items())
    text = f"# head{newline}{body}{newline if ends else ''}"
    values = {KEY: 0.25, "method.iou_filter_threshold": 0.125}
    new = with_values(text, values, "file")
    before, after = read_yaml(text, "file"), read_yaml(new, "file")
    assert after == {"method": {**before["method"], "score_threshold": 0.25, "iou_filter_threshold": 0.125}}
    for _, comment in rows.values():
        assert is_flow or new.count(comment) >= 1
    assert new.startswith(f"# head{newline}method:")
