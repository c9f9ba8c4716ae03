"""The methods: one paper, one file, one class."""

from __future__ import annotations

from raydet.config.run import RunConfig
from raydet.methods.base import Method, Selection, Thresholds
from raydet.methods.il_net import IlNet
from raydet.methods.supervised import Supervised
from raydet.methods.unbiased_teacher import UnbiasedTeacher

__all__ = ["METHODS", "Method", "Selection", "Thresholds", "build_method"]

METHODS: dict[str, type[Method]] = {
    "supervised": Supervised,
    "unbiased_teacher": UnbiasedTeacher,
    "il_net": IlNet,
}


def build_method(config: RunConfig) -> Method:
    """Return the method that `config.method.name` names."""
    return METHODS[config.method.name](config)
