"""Rules that do not depend on what is trained. Pure: numbers in, numbers out."""

from __future__ import annotations

import math
from collections.abc import Sequence

from raydet.config.method import MethodSection
from raydet.config.run import RunConfig
from raydet.errors import UserError
from raydet.recipe.document import Setting
from raydet.recipe.machine import Machine
from raydet.recipe.request import Counts, Request
from raydet.registry import methods_of
from raydet.text import plural

LEAST_FOR_VAL, LEAST_VAL = 10, 3
VAL_SHARE, MOST_VAL = 0.2, 500
KEEP_RATES = (0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9996)


def rounded(value: float) -> int:
    """Return a number with two digits that count, at least 1: 1,342 becomes 1,300."""
    if value < 10:
        return max(1, round(value))
    unit = int(10 ** (math.floor(math.log10(value)) - 1))
    return round(value / unit) * unit


def val_count(labeled: int) -> int:
    """Return how many of so many labelled images to withhold for evaluation; 0 where there are too few."""
    return 0 if labeled < LEAST_FOR_VAL else min(MOST_VAL, max(LEAST_VAL, round(VAL_SHARE * labeled)))


def keep_rate(steps: int) -> float:
    """Return the EMA's keep rate for so many steps with an average.

    The rate k looks back over 1 / (1 - k) steps; the longest look that fits five times into the run. At 180,000 steps
    that is the papers' 0.9996; at 500 it is 0.99.
    """
    fitting = [rate for rate in KEEP_RATES if 1 / (1 - rate) <= steps / 5 + 1e-6]
    return fitting[-1] if fitting else KEEP_RATES[0]


def interval(steps: int) -> int:
    """Return after how many steps to evaluate: ten times in a run."""
    return rounded(max(1, steps / 10))


def rhythm(steps: int, machine: Machine, *, most_on_cpu: int, log_every: int | None = None) -> list[Setting]:
    """Return when to look (on a CPU at most at `most_on_cpu` images), save and log in a run of so many steps."""
    every = interval(steps)
    return [
        Setting("checkpoint.every", every, "what a crash can cost at most"),
        Setting("eval.every", every, "ten times in the run"),
        *([Setting("eval.max_images", most_on_cpu, "more cost a CPU minutes each time")] if machine.is_cpu else []),
        Setting("log.every", log_every or max(1, min(20, every // 2))),
    ]


def counted(request: Request, labeled: int, unlabeled: int, spare: int) -> Counts:
    """Return what a run will have of a labelled set with `labeled` images and, where one was given, an unlabelled one.

    `spare`: how many of `val_count` images can be withheld without a class losing its last one.

    Raises UserError where more labels are asked for than there are.
    """
    withheld = None if "val" in request.sets or spare < LEAST_VAL else spare
    left = labeled - (withheld or 0)
    if request.labels is None:
        return Counts(left, unlabeled, withheld)
    if request.labels > left:
        kept = f" beside the {withheld} that are withheld for evaluation" if withheld else ""
        raise UserError(f"--labels {request.labels}: the labelled set has {plural(left, 'image')}{kept}; lower it")
    return Counts(request.labels, unlabeled or left - request.labels, withheld)


def data_settings(request: Request, counts: Counts) -> list[Setting]:
    """Return where the images come from."""
    sets = request.sets
    found = [Setting("data.labeled", shortest(sets["labeled"]), "relative paths start at the working directory")]
    if request.labels is not None:
        why = f"as asked (--labels); {plural(counts.unlabeled, 'image is', 'images are')} left without"
        found.append(Setting("data.labeled_count", request.labels, why if "unlabeled" not in sets else "as asked"))
    if "unlabeled" in sets:
        found.append(Setting("data.unlabeled", shortest(sets["unlabeled"]), plural(counts.unlabeled, "image")))
    if "val" in sets:
        found.append(Setting("data.val", shortest(sets["val"])))
    elif counts.val_count is not None:
        why = (
            f"no validation set was found: {plural(counts.val_count, 'labelled image is', 'labelled images are')} "
            f"withheld from training and measured instead (a fifth, at most {MOST_VAL}). With a set of your own: "
            "data.val"
        )
        found.append(Setting("data.val_count", counts.val_count, why))
    if "test" in sets:
        found.append(
            Setting("data.test", shortest(sets["test"]), "only `raydet evaluate RUN --split test` looks at it")
        )
    return found


def without_val(request: Request, counts: Counts) -> list[str]:
    """Return a note where nothing will be evaluated."""
    if "val" in request.sets or counts.val_count is not None:
        return []
    return [
        f"NOTHING IS EVALUATED: there is no validation set, and too few labelled images to withhold some "
        f"({LEAST_FOR_VAL} at least, none of them the last of its class). Add data.val to see whether the run learns"
    ]


def shortest(given: object) -> object:
    """Return a set as it is written: its path alone where that says all."""
    return given["path"] if isinstance(given, dict) and list(given) == ["path"] else given


def cluster_settings(machine: Machine) -> list[Setting]:
    """Return processes: all cores in one, or one per GPU."""
    if machine.gpus > 1:
        why = f"Ray Train, a worker on each of {plural(machine.gpus, 'GPU')}; batches are shared out"
        cpus = max(1, machine.cpus // machine.gpus)
        return [
            Setting("cluster.backend", "ray", why),
            Setting("cluster.workers", machine.gpus),
            Setting("cluster.cpus_per_worker", cpus, f"{plural(machine.cpus, 'core')} among them"),
            Setting("cluster.gpus_per_worker", 1),
        ]
    free = machine.free_cpus
    busy = f"threads of PyTorch; the other cores were busy (load {machine.load:.1f}): {machine.cpus} when they are not"
    return [
        Setting(
            "cluster.backend", "process", "one process without Ray, for " + ("the GPU" if machine.gpus else "the cores")
        ),
        Setting("cluster.cpus_per_worker", free, "threads of PyTorch: all cores" if free == machine.cpus else busy),
    ]


def chosen_method(request: Request, run: type[RunConfig], counts: Counts) -> type[MethodSection] | None:
    """Return the method that was asked for, None where the family is to choose.

    Raises UserError where the family has no such method, or there is nothing for it to label.
    """
    name = request.method
    if name is None:
        return None
    by_name = {method.called(): method for method in methods_of(run)}
    if name not in by_name:
        raise UserError(f"--method {name}: a {run.trains} is trained by {', '.join(by_name)}; choose one of them")
    if by_name[name].uses_labels and not counts.unlabeled:
        raise UserError(
            f"--method {name} needs unlabelled images: give --unlabeled DIR, or --labels N to set some aside"
        )
    return by_name[name]


def applicable(method: type[MethodSection], settings: Sequence[Setting]) -> list[Setting]:
    """Return those of the settings `method.KEY` that a method has, in order: so rules are about settings, not methods.

    What a method has and no rule knows is left at its default.
    """
    keys = set(method.model_fields) - ({"burn_in_steps"} if method.one_stage else set())
    return [setting for setting in settings if setting.key.split(".")[1] in keys]
