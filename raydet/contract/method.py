"""What the engine asks of a method: one paper, one file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from torch import Tensor, nn

from raydet.config.method import MethodSection
from raydet.config.run import RunConfig
from raydet.contract.types import Alarm, Batch, DataSizes, Outputs, ParamGroup, State, Teacher
from raydet.data.order import Listing, Rebuilds
from raydet.group import Group
from raydet.labels.schedule import LabelSchedule
from raydet.learning_rate import lr_at
from raydet.records import PseudoLabel
from raydet.window import Window

Config = TypeVar("Config", bound=RunConfig)
AnyBatch = TypeVar("AnyBatch", bound=Batch)


class Method(ABC, Generic[Config, AnyBatch]):
    """One paper. Subclasses of a family's base are never subclassed.

    `run` is the run's configuration, `config` the method's own settings in it.
    """

    settings: ClassVar[type[MethodSection]] = MethodSection
    """The class of the method's settings, which a method declares as the type of `config`, too."""
    config: MethodSection

    unseen_by_burn_in: ClassVar[frozenset[str]] = frozenset()
    """Keys of the method's configuration that change nothing before the burn-in's end, so that a search over them
    trains the burn-in once."""

    learns_in_burn_in: ClassVar[bool] = False
    """Whether what `build_state` makes changes in the burn-in, too, and so goes over to a run that starts from it."""

    def __init__(self, config: Config) -> None:
        assert isinstance(config.method, self.settings), type(config.method)
        self.run, self.config = config, config.method

    @property
    @abstractmethod
    def loss_weights(self) -> dict[str, float]:
        """Names and weights of the loss terms, the same on every rank and at every step.

        The part before the first `/` says, in the log and the report, what a term is about.
        """

    @abstractmethod
    def build_model(self, num_classes: int) -> nn.Module:
        """Return a freshly initialised model; student and teacher are both made by this."""

    def compiled(self, model: Any) -> Sequence[nn.Module]:
        """Return the parts of a model that trains or labels which torch.compile is given; by default none."""
        return ()

    def start(self, model: Any) -> list[str]:
        """Overwrite parts of a fresh model by what the configuration names, such as weights of another run; return
        what was done, a line each.

        Called for the student of a run that starts from nothing else, on every rank; the same on all.
        """
        return []

    @abstractmethod
    def schedule(self) -> LabelSchedule:
        """Say which teacher version labels which step, or that no step needs labels."""

    @abstractmethod
    def losses(self, student: Any, batch: AnyBatch, teacher: Any, state: Any) -> Outputs:
        """Return every term of `loss_weights` for this rank's views; runs inside DDP's forward.

        `teacher` is the average of the student as it is now, in evaluation mode and without gradients, or None before
        its first step; `state` is what `build_state` made.
        """

    def teacher(self) -> Teacher | None:
        """Return the law of the teacher; None: the student of a publish step is the teacher itself."""
        config = self.run.method
        keep = config.keep_rate
        if keep is None:
            return None
        return Teacher(config.burn_in_steps, lambda step: keep)

    @property
    def stage_ends(self) -> tuple[int, ...]:
        """Return the steps at which the run changes its nature; there it is evaluated and saved."""
        return (self.run.method.burn_in_steps,)

    def stage_name(self, step: int) -> str | None:
        """Return what log and report call the stage that a step belongs to; None: its stages have no names."""
        return None

    @property
    def fresh_optimizer_at(self) -> tuple[int, ...]:
        """Return the stage ends at which the optimiser forgets what it has gathered, such as momentum."""
        return ()

    def lr_at(self, step: int) -> float:
        """Return the learning rate of the step that starts after `step` completed ones."""
        return lr_at(step, self.run.optim, uses_unlabeled=self.run.uses_labels)

    def param_groups(self) -> list[ParamGroup]:
        """Return which parameters follow which law of the learning rate; every parameter matches one."""
        return [ParamGroup("all", lambda name: True, self.lr_at)]

    def build_state(self, sizes: DataSizes) -> State | None:
        """Return what the run learns beside the weights; None: nothing."""
        return None

    def state_bytes(self, sizes: DataSizes) -> int:
        """Return how large that is, on every rank and in a checkpoint; allocates nothing."""
        return 0

    def wants_label(self, state: Any, rows: Sequence[int], version: int) -> list[bool]:
        """Say which images (rows of the unlabelled index) want the label of that teacher."""
        return [True] * len(rows)

    def update(
        self,
        state: Any,
        batch: AnyBatch,
        per_view: Mapping[str, Tensor],
        sums: Mapping[str, Tensor],
        group: Group,
    ) -> None:
        """Change the state by what one step's forward gave, before the weights change; the same on all ranks.

        `per_view` are this rank's rows, `sums` those of all ranks together; see `Outputs`.
        """

    def rebuilds(self) -> Rebuilds | None:
        """Say at which steps unlabelled images are listed anew; None: never."""
        return None

    def rebuild(
        self, state: Any, sizes: DataSizes, step: int, labels: Iterable[tuple[int, PseudoLabel]], group: Group
    ) -> None:
        """List the unlabelled images anew: change the state such that `listings` has a listing of this rebuild.

        `labels` are the newest of each image in `rebuilds().window(step)`, with its row, of this rank's share of the
        rows; together the ranks have them all, each once, whatever their number.
        """
        raise AssertionError(f"{type(self).__name__} lists nothing anew")

    def listings(self, state: Any, sizes: DataSizes) -> list[Listing]:
        """Return how often images are listed in an epoch, where it is not once; of unlabelled ones the last two."""
        return []

    def after_step(self, student: Any, step: int) -> None:
        """Change parts of the model that no gradient reaches, such as an average that the method keeps in it.

        Called when the weights have changed, for the step that they changed in; the same on all ranks.
        """

    def explain_barren(self, window: Window) -> Alarm | None:
        """Say what is wrong with the labels of a window, where something is: a method knows its own gates."""
        return None

    def fork_drops(self, name: str) -> bool:
        """Say whether a run may be forked without that weight of the checkpoint, where its model has none such."""
        return False

    def fork_takes(self, name: str) -> str | None:
        """Return the weight of the burn-in that `name`, which the burn-in does not have, starts from; None: no one."""
        return None

    def label_bytes(self, num_classes: int) -> int:
        """Return about how many bytes the label of one image takes in the store."""
        return 0

    def notes(self, sizes: DataSizes) -> list[str]:
        """Return what a user should read before the run starts, a line each."""
        return []
