"""Figures, counts and names as text for people. The one place where each is written."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

_ODD = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def percent(value: float | None, digits: int = 1) -> str:
    """Return a share (1 is all) in percent, without the sign; a dash for None."""
    return "-" if value is None else f"{100 * value:.{digits}f}"


def signed_percent(value: float | None, digits: int = 1) -> str:
    """Return a difference of shares in percent points, with its sign; a dash for None."""
    if value is None:
        return "-"
    shown = f"{100 * value:+.{digits}f}"
    return shown.replace("-", "+", 1) if float(shown) == 0 else shown  # no -0.0


def percent_with_spread(mean: float, sd: float | None, digits: int = 1) -> str:
    """Return a mean share in percent, with its standard deviation where there is one."""
    return percent(mean, digits) + ("" if sd is None else f" ± {percent(sd, digits)}")


def duration(seconds: float) -> str:
    """Return how long something took or takes, e.g. `40 s`, `1.5 min`, `12:05 h`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60}:{minutes % 60:02} h" if minutes >= 60 else f"{seconds / 60:.1f} min"


def aligned(rows: Sequence[Sequence[str]], *, left: int = 1) -> list[str]:
    """Return the rows of a table as lines, the first `left` columns flush left, the others flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def clock(seconds: float) -> str:
    """Return a time that is shown as it runs down, of constant width: hours, minutes and seconds, e.g. `1:02:05`."""
    minutes, rest = divmod(round(max(seconds, 0.0)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def size(count: int) -> str:
    """Return bytes as text, e.g. `2.2 MB`."""
    if 0 < count < 5e4:
        return f"{count / 1e3:.1f} kB"
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def plural(number: int, one: str, many: str | None = None) -> str:
    """Return e.g. `1 worker`, `2,000 workers`, `2 boxes`; `many`: where it takes more than an ending."""
    ending = "es" if one.endswith(("s", "x", "ch", "sh")) else "s"
    return f"{number:,} {one if number == 1 else many or one + ending}"


def some(names: Sequence[object], most: int = 10) -> str:
    """Return the first names and how many more there are, e.g. `cat, dog and 3 more`."""
    return ", ".join(map(str, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


def is_plain(text: str) -> bool:
    """Return whether a text is valid Unicode without control characters (line breaks, escape sequences).

    Names from foreign files end up in messages, terminals and id lists.
    """
    return _ODD.search(text) is None


def suggestion(name: str, class_names: Sequence[str]) -> str:
    """Return a half sentence that helps somebody who wrote a class name that is not known."""
    folded = {_fold(known): known for known in class_names}
    close = difflib.get_close_matches(_fold(name), list(folded), n=1, cutoff=0.75)
    if close:
        return f"did you mean {folded[close[0]]!r}? "
    return f"its classes: {', '.join(class_names[:10])}{', ...' if len(class_names) > 10 else ''}; "


def _fold(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum()) or name
