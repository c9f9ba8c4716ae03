"""Commented YAML: what is written is what is read back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydet.config.load import read_yaml
from raydet.recipe.document import Setting, render

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(min_size=1), inner, max_size=3),
    max_leaves=6,
)


def test_sections_come_in_the_order_of_their_first_key_and_short_reasons_stand_beside_the_value():
    text = render(
        ["what it is"],
        [Setting("run.dir", "runs/a"), Setting("data.labeled", "a.json", "found"), Setting("run.stop_at", 5)],
    )
    assert text == "# what it is\n\nrun:\n  dir: runs/a\n  stop_at: 5\n\ndata:\n  labeled: a.json  # found\n"


def test_a_command_keeps_to_one_line_and_no_word_of_a_comment_is_broken():
    command = "raydet check-data " + "long-name " * 20
    head = render(["word " * 20 + "image-in-two-sets"], [], [command]).splitlines()
    assert head == ["# " + " ".join(["word"] * 20), "# image-in-two-sets", f"#   {command}"]


def test_a_long_reason_is_wrapped_above_its_value():
    lines = render([], [Setting("optim.lr", 0.0005, "word " * 40)]).splitlines()
    assert lines[0:2] == ["", "optim:"] and lines[-1] == "  lr: 0.0005"
    assert len(lines) == 5 and all(line.startswith("  # word") and len(line) <= 110 for line in lines[2:4])


@pytest.mark.parametrize(
    "word", ["true", "null", "NULL", "True", "no", "Off", "1e5", "-", "a: b", "${X:-y}/z", "*a", "# a", "", "~", ".5"]
)
def test_a_word_stays_a_word(word: str):
    assert read_yaml(render([], [Setting("a.b", word)]), "here") == {"a": {"b": word}}


def test_a_line_break_in_a_name_cannot_leave_its_comment():
    assert read_yaml(render(["x\nevil: 1"], [Setting("a.b", 1, "y\u2028evil: 2")]), "here") == {"a": {"b": 1}}


@settings(max_examples=200)
@given(PLAIN, st.text())
def test_whatever_is_written_is_read_back(value: Any, why: str):
    assert read_yaml(render([why], [Setting("a.b.c", value, why), Setting("a.d", 1)]), "here") == {
        "a": {"b": {"c": value}, "d": 1}
    }


def test_a_key_is_set_once_and_is_no_section_too():
    with pytest.raises(ValueError, match="a.b is set twice"):
        render([], [Setting("a.b", 1), Setting("a.b", 2)])
    with pytest.raises(ValueError, match="a.b is a value"):
        render([], [Setting("a.b", 1), Setting("a.b.c", 2)])
