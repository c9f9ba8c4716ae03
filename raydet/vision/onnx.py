"""What every export to ONNX does alike, whatever the network."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

from raydet.errors import UserError

OPSET = 18


def check_packages(out: Path) -> None:
    """Raise UserError where a package of the `onnx` extra, which writing `out` takes, is missing."""
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"--out {out}: ONNX needs {', '.join(missing)}: pip install 'raydet[onnx]'")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporter's notes about itself from the user."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
