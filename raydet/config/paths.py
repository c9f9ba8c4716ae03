"""Paths that people write, in a configuration or behind a command: one type for all of them.

`~` is the home folder and `${NAME}`, `${NAME:-default}` an environment variable, wherever a path may stand: no shell
expands a tilde behind `run.dir=`, and a folder that is really called `~` is a trap for whoever deletes it.
"""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from raydet.errors import ConfigError

_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")
_COPY = ("runtime_resources", "working_dir_files")  # of a job's working directory, somewhere below Ray's own folder


def expand_variables(text: str) -> str:
    """Replace `${NAME}` and `${NAME:-default}` by environment variables. Raises ValueError for an unset one."""

    def value(match: re.Match[str]) -> str:
        name, default = match.group(1), match.group(2)
        found = os.environ.get(name) or default
        if found is None:
            raise ValueError(f"environment variable {name} in {text!r} is not set; set it or write the path out")
        return found

    return _VARIABLE.sub(value, text)


def expand_path(text: str) -> str:
    """Return a path with variables and a home folder written out.

    Raises ValueError where there are none such, and for a path that is empty: it would be the working directory.
    """
    path = os.path.expanduser(expand_variables(text))
    if not path:
        raise ValueError(f"{text!r} is empty; write a path, or leave it out (is a variable of the shell not set?)")
    if path.startswith("~") and not os.path.lexists(path):
        home = path.split("/", 1)[0]
        raise ValueError(
            f"{text!r}: no home folder is known for {home}; write it out, or ./{home} for a file of that name"
        )
    return path


PathText = Annotated[str, AfterValidator(expand_path)]
"""The type of every setting that is a path, also where it may be a word (`imagenet`) or a glob as well."""


def path_argument(text: str) -> str:
    """Be the `type` of a command's argument that is a path, a glob or a URI."""
    try:
        return expand_path(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def check_lasts(path: str | Path, key: str) -> None:
    """Raise ConfigError where results would go into Ray's temporary copy of a job's working directory.

    The next submission has another copy, so a run there is never found again; and Ray deletes them.
    """
    full = Path(path).absolute()
    places = list(zip(full.parts, full.parts[1:], strict=False))
    if _COPY not in places:
        return
    below = full.parts[places.index(_COPY) + 3 :]  # without the name of the package
    name = "/".join(below) or "results"
    raise ConfigError(
        f"{key}={path} lies in Ray's temporary copy of the job's working directory ({full}), where the next job would "
        f"not find it: give the full path of storage that stays and that all nodes see, e.g. {key}=/shared/{name}"
    )
