"""Names from foreign files end up in messages, terminals and id lists."""

from __future__ import annotations

import re

_ODD = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def is_plain(text: str) -> bool:
    """Return whether a text is valid Unicode without control characters (line breaks, escape sequences)."""
    return _ODD.search(text) is None
