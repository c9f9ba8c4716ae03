"""Which raydet wrote a configuration.

Config files and run folders carry it, so that an older raydet can say why it does not understand one.
"""

from __future__ import annotations

import re
from typing import Any

from raydet import __version__
from raydet.errors import ConfigError

VERSION_KEY = "raydet_version"


def take_version(tree: dict[str, Any], where: str) -> str | None:
    """Remove the version from a configuration and return it, None where it has none. Raises ConfigError for nonsense.

    `tree` is changed; `where` names the file.
    """
    version = tree.pop(VERSION_KEY, None)
    if version is not None and not (isinstance(version, str) and _numbers(version)):
        raise ConfigError(f"{where}: {VERSION_KEY}={version!r}: expected a version like {__version__}, or no such key")
    return version


def is_newer(version: str | None) -> bool:
    """Whether a version is newer than this raydet."""
    return version is not None and _numbers(version) > _numbers(__version__)


def _numbers(version: str) -> tuple[int, ...]:
    """Return (1, 2, 3) for 1.2.3 and for 1.2.3rc1; nothing for what is no version."""
    found = re.match(r"(\d{1,9})\.(\d{1,9})\.(\d{1,9})", version)
    return tuple(int(part) for part in found.groups()) if found else ()
