"""How large a working directory is that `ray job submit --working-dir .` sends."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ray._private.ray_constants import get_runtime_env_default_excludes
from ray._private.runtime_env.packaging import get_excludes_from_ignore_files

from raydet.text import plural

LIMIT_BYTES = 100 * 2**20  # a job server takes no more


@dataclass(frozen=True, slots=True)
class Upload:
    """What would be sent, before it is compressed."""

    files: int
    bytes: int
    largest: tuple[tuple[str, int], ...]  # the five largest files (path below the folder, bytes)

    def __str__(self) -> str:
        return f"{self.bytes / 2**20:.2f} MiB in {plural(self.files, 'file')} before compression"


def upload_of(folder: Path) -> Upload:
    """Return what Ray would send of a folder, by Ray's own reading of .gitignore and .rayignore."""
    folder = folder.absolute()
    left_out = set(get_runtime_env_default_excludes())
    with_gitignore = os.environ.get("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "0") != "1"
    sizes: dict[str, int] = {}

    def visit(path: Path, rules: list[Callable[[Path], bool]]) -> None:
        rules = [*rules, *get_excludes_from_ignore_files(path, with_gitignore, logger=_Silent())]
        for each in path.iterdir():
            if each.name in left_out or any(rule(each) for rule in rules):
                continue
            if each.is_dir():
                visit(each, rules)
            elif each.is_file():
                sizes[str(each.relative_to(folder))] = each.stat().st_size

    visit(folder, [])
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:5]
    return Upload(len(sizes), sum(sizes.values()), tuple(largest))


class _Silent:
    """Ray announces each ignore file."""

    def info(self, *_: object) -> None:
        """Say nothing."""
