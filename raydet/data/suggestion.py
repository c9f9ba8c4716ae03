"""What somebody who wrote an unknown class name may have meant."""

from __future__ import annotations

import difflib


def suggestion(name: str, class_names: tuple[str, ...]) -> str:
    """Return a half sentence that helps somebody who wrote a class name that is not known."""
    folded = {_fold(known): known for known in class_names}
    close = difflib.get_close_matches(_fold(name), list(folded), n=1, cutoff=0.75)
    if close:
        return f"did you mean {folded[close[0]]!r}? "
    return f"its classes: {', '.join(class_names[:10])}{', ...' if len(class_names) > 10 else ''}; "


def _fold(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum()) or name
