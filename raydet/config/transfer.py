"""Starting a detector from the weights of another run. See docs/transfer.md."""

from __future__ import annotations

from typing import ClassVar, Literal, Self, get_args

from pydantic import model_validator

from raydet.config.base import ModelSection
from raydet.config.paths import PathText

Part = Literal["backbone", "fpn", "rpn", "box_head"]
PARTS: tuple[Part, ...] = get_args(Part)


class TransferSection(ModelSection):
    """Which parts of a model start from another run's weights, and what is trained of them."""

    weight_keys: ClassVar[tuple[str, ...]] = ("weights", "init_from")

    init_from: PathText | None = None
    """Start from weights of another raydet run: its folder, one of its checkpoint folders, or a .safetensors file that
    `raydet export` wrote. Predictors of classes and boxes always start afresh: classes may differ."""
    init_role: Literal["student", "teacher"] | None = None
    """With `init_from`: whose weights. Default: the teacher's where there is one."""
    init_parts: tuple[Part, ...] = ()
    """With `init_from`: the parts to take, of `backbone`, `fpn`, `rpn` and `box_head`. Default: those that it has."""
    init_norms: Literal["frozen", "backbone_frozen", "trained"] = "frozen"
    """With `init_from`: whether batch norms that come from it keep their statistics and weights, as small batches need
    it: all of them, those of the backbone alone, or none. With a frozen backbone's norms only `trainable_stages` of it
    train."""
    finetune: Literal["all", "predictors"] = "all"
    """With `init_from`: train everything, or the predictors of classes and boxes alone (few-shot, ADePT)."""

    @property
    def started_from(self) -> str | None:
        """The run or file whose weights the model starts from, beside those of `weights`; None where there is none."""
        return self.init_from

    def takes(self, part: Part) -> bool:
        """Whether that part starts from `init_from`, where it has one."""
        return self.init_from is not None and (not self.init_parts or part in self.init_parts)

    def keeps_norms(self, part: Part) -> bool:
        """Whether the batch norms of that part stay as they come."""
        is_pretrained = part == "backbone" and self.weights is not None
        is_kept = self.init_norms == "frozen" or (part == "backbone" and self.init_norms == "backbone_frozen")
        return is_pretrained or (self.takes(part) and is_kept)

    @model_validator(mode="after")
    def _transfer_is_whole(self) -> Self:
        if self.init_from is None:
            idle = ("init_role", "init_parts", "init_norms", "finetune")
            given = [key for key in idle if getattr(self, key) != type(self).model_fields[key].default]
            if given:
                raise ValueError(f"{given[0]} says how to use init_from, which is not given: name a run, or remove it")
            return self
        if len(set(self.init_parts)) != len(self.init_parts):
            raise ValueError(f"init_parts={list(self.init_parts)}: name every part once, of {list(PARTS)}")
        if self.takes("backbone") and self.weights is not None:
            raise ValueError(
                f"weights={self.weights} and init_from={self.init_from} both say where the backbone starts: leave "
                f"`weights` out, or leave backbone out of init_parts"
            )
        if self.finetune == "predictors" and self.init_norms != "frozen":
            raise ValueError(
                f"finetune=predictors leaves all features as they are: remove init_norms={self.init_norms}"
            )
        return self
