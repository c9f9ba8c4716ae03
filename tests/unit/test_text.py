from __future__ import annotations

import pytest

from raydet.text import clock, duration, is_plain, percent, percent_with_spread, plural, size, some, suggestion


def test_a_share_is_written_in_percent_and_a_missing_one_as_a_dash():
    assert [percent(0.25), percent(1.0), percent(0.12345, 2), percent(None), percent(None, 2)] == [
        "25.0",
        "100.0",
        "12.35",  # 12.345, whose nearest float lies above it
        "-",
        "-",
    ]


def test_a_mean_has_its_spread_where_there_is_one():
    assert percent_with_spread(0.25, 0.0125) == "25.0 ± 1.2"  # 1.25 rounds to the even digit
    assert percent_with_spread(0.25, None, 2) == "25.00"


@pytest.mark.parametrize(
    ("seconds", "long", "short"),
    [
        (0.0, "0 s", "0:00:00"),
        (59.4, "59 s", "0:00:59"),
        (60.0, "1.0 min", "0:01:00"),
        (3569.0, "59.5 min", "0:59:29"),  # 3569 / 60 = 59.48
        (3570.5, "1:00 h", "0:59:30"),  # 59.51 minutes, rounded to 60
        (3725.4, "1:02 h", "1:02:05"),  # 3600 + 2 x 60 + 5.4
        (100_000.0, "27:47 h", "27:46:40"),  # 27 x 3600 + 46 x 60 + 40
    ],
)
def test_times_are_written_as_long_as_they_need_and_clocks_in_one_form(seconds: float, long: str, short: str):
    assert (duration(seconds), clock(seconds)) == (long, short)


@pytest.mark.parametrize(
    ("count", "most", "text"),
    [(0, 2, ""), (1, 2, "0"), (2, 2, "0, 1"), (3, 2, "0, 1 and 1 more"), (1200, 1, "0 and 1199 more")],
)
def test_of_many_names_the_first_are_named_and_the_others_counted(count: int, most: int, text: str):
    assert some(range(count), most) == text


def test_a_clock_that_ran_past_its_end_shows_nothing_left():
    assert clock(-3.0) == "0:00:00"


def test_bytes_and_counts():
    assert [size(2_200_000), size(999_999_999), size(5_100_000_000)] == ["2.2 MB", "1000.0 MB", "5.1 GB"]
    assert [plural(1, "worker"), plural(2, "worker"), plural(0, "worker")] == ["1 worker", "2 workers", "0 workers"]
    assert [plural(1, "box"), plural(2000, "box"), plural(3, "class")] == ["1 box", "2,000 boxes", "3 classes"]
    assert [plural(n, "image is", "images are") for n in (1, 2)] == ["1 image is", "2 images are"]


def test_control_characters_and_half_characters_are_not_plain():
    assert is_plain("Käfer 7/ß")
    assert not any(is_plain(text) for text in ("a\nb", "\x1b[31m", "odd\udcff", "\x85"))


def test_a_close_class_name_is_suggested_and_else_the_first_ten_are_listed():
    names = ("red blood cell", "platelet")
    assert suggestion("Red_Blood-Cells", names) == "did you mean 'red blood cell'? "
    assert suggestion("dog", tuple("abcdefghijk")) == "its classes: a, b, c, d, e, f, g, h, i, j, ...; "
