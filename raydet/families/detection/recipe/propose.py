"""Putting a detector's configuration together: every value with its reason."""

from __future__ import annotations

from raydet.config.backbone import EFFICIENTNET, default_strides
from raydet.config.box_data import DataConfig
from raydet.config.method import MethodSection
from raydet.families.detection.config import DetectionConfig, IlNetConfig, SupervisedConfig
from raydet.families.detection.data import BOXES
from raydet.families.detection.recipe import rules
from raydet.families.detection.recipe.anchors import Anchors, choose
from raydet.families.detection.recipe.facts import BoxFacts, check_boxes, look_at, sizes_of, smallest
from raydet.recipe.document import Setting
from raydet.recipe.machine import Machine
from raydet.recipe.reading import chosen, read_sets
from raydet.recipe.request import Counts, Recipe, Request
from raydet.recipe.rules import (
    applicable,
    chosen_method,
    cluster_settings,
    data_settings,
    keep_rate,
    rhythm,
    without_val,
)
from raydet.text import plural, some

FEW_LABELS = 2000  # images; the papers' weights are for more
Settings = list[Setting]


def propose(request: Request) -> Recipe:
    """Return a configuration that trains well on these boxes and this machine.

    Raises DataError where the sets cannot be used, UserError where what was asked for cannot be had.
    """
    path, tables = str(request.sets["labeled"]["path"]), read_sets(BOXES, request)
    check_boxes(tables["labeled"], path)
    table, counts = chosen(BOXES, DataConfig, request, tables)
    facts, which, small = look_at(table, path)
    machine = request.machine
    method = chosen_method(request, DetectionConfig, counts)
    why_method = "as asked (--method)"
    if method is None:
        method, why_method = usual_method(counts)
    side, why_side = rules.short_side(facts.short_side, facts.long_side, small, machine)
    batch = rules.labeled_batch(counts.labeled, machine)
    steps = rules.steps(counts.labeled, batch)
    settings = [
        Setting("run.dir", request.run_dir),
        *data_settings(request, counts),
        *views(facts, side, why_side, machine, own="views" in method.model_fields),
        *model(facts, side, machine),
        *method_settings(method, why_method, counts, steps, side, machine),
        *optimiser(counts, batch, steps, method.uses_labels, side, facts, machine),
        *cluster_settings(machine),
        *rhythm(steps, machine, most_on_cpu=500, log_every=10),
    ]
    notes = (
        f"{plural(facts.images, 'labelled image')} of {facts.short_side} x {facts.long_side} pixels (median), "
        f"{plural(len(facts.boxes), 'box')} of {plural(len(facts.class_names), 'class')}, "
        f"{plural(counts.unlabeled, 'unlabelled image')}",
        f"boxes: half are smaller than {median(facts):.0f} pixels (square root of the area); {which} are "
        f"no larger than {small:.0f}; at most {plural(facts.boxes_per_image[1], 'box')} in an image",
        *few(facts),
        *without_val(request, counts),
    )
    return Recipe(tuple(settings), notes)


def median(facts: BoxFacts) -> float:
    """Return the size of the middle box (pixels)."""
    return float(sorted(facts.sizes)[len(facts.sizes) // 2])


def few(facts: BoxFacts) -> list[str]:
    """Return a note about classes with hardly any box."""
    rare = [repr(name) for name, count in zip(facts.class_names, facts.boxes_per_class, strict=True) if count < 5]
    note = f"fewer than 5 boxes: {some(rare, 5)}; expect little of them, and label more first"
    return [note] if rare else []


def usual_method(counts: Counts) -> tuple[type[MethodSection], str]:
    """Return the method where none was asked for, and why."""
    if counts.unlabeled:
        return IlNetConfig, (
            f"{plural(counts.unlabeled, 'unlabelled image')}; their pseudo-boxes train classes and places"
        )
    return SupervisedConfig, "nothing is unlabelled: with --unlabeled DIR or --labels N other methods are possible"


def views(facts: BoxFacts, side: int, why: str, machine: Machine, *, own: bool) -> Settings:
    """Return the size of views and the flips; with `own` views the method says at which sizes it trains."""
    usual, stretch = facts.stretch
    why_long = f"the longest images are {stretch:.2f} times as long as short"
    if stretch > (most := rules.most_stretch(usual)):
        why_long += f"; those of more than {most:.2f} are shown smaller"
    return [
        *([] if own else [Setting("data.views.short_side", rules.jittered(side, machine), why)]),
        Setting("data.views.max_long_side", rules.long_side(side, *facts.stretch), why_long),
        Setting("data.views.eval_short_side", side, why if own else "as in training"),
        Setting("data.views.horizontal_flip", 0.5, "0.0 where left and right differ, as in text"),
        Setting(
            "data.views.vertical_flip", 0.0, "0.5 where pictures have no up, as through a microscope or from above"
        ),
        Setting("data.loader_threads", min(8, max(2, machine.cpus // max(1, machine.gpus))), threads(machine)),
    ]


def threads(machine: Machine) -> str:
    """Say why so many threads decode."""
    return plural(machine.cpus, "core") + (f" for {machine.gpus} GPUs" if machine.gpus > 1 else "")


def model(facts: BoxFacts, side: int, machine: Machine) -> Settings:
    """Return network and anchors."""
    name = rules.backbone(machine)
    boxes = facts.seen(side, rules.long_side(side, *facts.stretch))
    _, small_seen = smallest(sizes_of(boxes), facts.classes, facts.class_names)
    strides = rules.strides(name, small_seen)
    found, defaults = choose(boxes, strides)
    settings = network(name)
    if strides != default_strides(name):
        why = (
            f"small boxes have {small_seen:.0f} pixels in these views: less than two cells of the usual finest level, 8"
        )
        settings.append(Setting("model.fpn_strides", list(strides), why))
    settings += anchors(found, defaults)
    per_image, most = facts.boxes_per_image
    if name == EFFICIENTNET:
        before, after = rules.proposals(most)
        sampled = rules.rois(per_image)
        why = f"nine of ten images have at most {plural(per_image, 'box')}"
        settings += [
            Setting("model.fpn_channels", 64, "a quarter of the usual width: most of a CPU's time goes here"),
            Setting("model.box_head_dim", 256, "as above"),
            Setting("model.rpn_batch", 2 * sampled, "as above"),
            Setting(
                "model.rpn_pre_nms_train",
                before,
                f"{plural(most, 'box')} at most in an image; the usual 2,000 cost time",
            ),
            Setting("model.rpn_pre_nms_test", before),
            Setting("model.rpn_post_nms_train", after),
            Setting("model.rpn_post_nms_test", after),
            Setting("model.roi_batch", sampled, why),
            Setting("model.roi_sampling_ratio", 2, "torchvision's; 0 adapts to the RoI and is slower"),
        ]
    if (detections := rules.detections(most)) > 100:
        settings.append(Setting("model.test_detections", detections, f"an image has {plural(most, 'box')}"))
    return settings


def network(name: str) -> Settings:
    """Return backbone and weights."""
    if name == EFFICIENTNET:
        why = "ImageNet weights that come with raydet; trains on a CPU"
        return [Setting("model.backbone", name, why), Setting("model.weights", "imagenet")]
    why = "torchvision's, downloaded once to $TORCH_HOME; without a network give the file (docs/backbones.md)"
    return [
        Setting("model.backbone", name, "a GPU has time and memory for it; efficientnet_lite0_fpn comes with weights"),
        Setting("model.weights", "imagenet", why),
    ]


def anchors(found: Anchors, defaults: Anchors) -> Settings:
    """Return anchors with the recall of theirs and of the defaults."""

    def said(of: Anchors) -> str:
        return f"{of.recall[0]:.3f} at IoU .5 and {of.recall[1]:.3f} at .7"

    why = (
        f"{found.origin}, from the labelled boxes as these views show them: recall of the best anchor {said(found)}; "
        f"the defaults reach {said(defaults)}"
        if found is not defaults
        else f"the defaults: recall of the best anchor {said(found)} on the labelled boxes; none that was fitted "
        f"reaches much more"
    )
    return [
        Setting("model.anchor_sizes", [list(map(int, level)) for level in found.sizes], why),
        Setting("model.anchor_ratios", list(found.ratios), "height / width"),
    ]


def method_settings(
    method: type[MethodSection], why: str, counts: Counts, steps: int, side: int, machine: Machine
) -> Settings:
    """Return the method's name, and those of its settings that there is a rule for."""
    burn_in = steps // 2
    half = "the average begins half-way, when weights have stopped moving far"
    if method.uses_labels:
        half = "half of the run: a teacher that is still bad teaches its mistakes"
    rate = keep_rate(steps - burn_in)
    looks = f"looks back over {1 / (1 - rate):.0f} steps, of {steps - burn_in} with an average"
    measured = "the papers'; after the burn-in `raydet thresholds RUN` measures a better one"
    few_labels = counts.labeled < FEW_LABELS
    sure, floor = (0.7, 0.4) if few_labels else (0.9, 0.5)
    why_sure = "after few labels a teacher is hardly ever surer" if few_labels else "the paper's"
    last = burn_in + (steps - burn_in) * 4 // 5
    proposed = [
        Setting("method.burn_in_steps", burn_in, half),
        Setting("method.ema_keep_rate", rate, looks),
        Setting("method.score_threshold", 0.7, measured),
        Setting("method.cls_pseudo_threshold", sure, why_sure),
        Setting("method.rpn_pseudo_threshold", sure, why_sure),
        Setting("method.pseudo_score_floor", floor, "what no pseudo-box may be below"),
        *unsup_weights(method, counts.labeled),
        Setting("method.iou_filter_threshold", 0.4, "the paper's; `raydet thresholds RUN` measures it too"),
        Setting("method.retrain_from_step", last, "the last fifth trains the classifier alone"),
        own_sizes(side, machine),
    ]
    return [Setting("method.name", method.called(), why), *applicable(method, proposed)]


def unsup_weights(method: type[MethodSection], labeled: int) -> Settings:
    """Return the weights of the losses on pseudo-boxes: the papers', which are the defaults; after few labels 1."""
    found: Settings = []
    for key in ("unsup_cls_weight", "unsup_iou_weight", "unsup_weight"):
        if key not in method.model_fields:
            continue
        weight, why = method.model_fields[key].default, f"{plural(labeled, 'labelled image')}: as the papers"
        if labeled < FEW_LABELS:
            why = (
                f"{plural(labeled, 'labelled image')}; below {FEW_LABELS:,} a teacher errs too often for "
                f"the papers' {weight:g}"
            )
            weight = min(1.0, weight)
        found.append(Setting(f"method.{key}", weight, "as above" if found else why))
    return found


def own_sizes(side: int, machine: Machine) -> Setting:
    """Return the sizes of a method's own views: from half to one and a half times, as Soft Teacher's; less on a CPU."""
    low, high = (3 / 4, 1.0) if machine.is_cpu else (1 / 2, 3 / 2)
    sides = [round(side * share / 8) * 8 for share in (low, high)]
    return Setting("method.views.short_side", sides, f"drawn from {low:g} to {high:g} times the size of evaluation")


def optimiser(
    counts: Counts, batch: int, steps: int, uses_labels: bool, side: int, facts: BoxFacts, machine: Machine
) -> Settings:
    """Return batches, rates and lengths."""
    name = rules.backbone(machine)
    others = rules.unlabeled_batch(batch, counts.unlabeled, machine) if uses_labels else 0
    views_per_step = 2 * batch + others
    pixels = side * side * facts.long_side / facts.short_side
    passes = min(
        rules.accumulate(views_per_step, pixels, machine), max(1, min(batch, others or batch) // max(1, machine.gpus))
    )
    looks = steps * batch / counts.labeled
    rate = rules.learning_rate(batch, name)
    measured = "measured on small sets with these weights" if name == EFFICIENTNET else "not measured with raydet"
    settings = [
        Setting("optim.name", "adamw", "needs no search on small sets"),
        Setting("optim.lr", rate, f"{measured}; where the loss turns NaN, a third of it"),
        Setting("optim.weight_decay", 0.05, "usual with AdamW"),
        Setting("optim.labeled_batch", batch, f"each enters as strong and as weak view: {2 * batch} views a step"),
    ]
    if uses_labels:
        settings.append(Setting("optim.unlabeled_batch", others, f"{plural(views_per_step, 'view')} a step with these"))
    settings += [
        Setting(
            "optim.steps",
            steps,
            f"1,500 for 50 labels and 4 images a step, more as the labels' square root: every labelled image is seen "
            f"{looks:.0f} times; where AP still rises at the end, raise it and train on with --resume",
        ),
        Setting(
            "optim.schedule", "steps", "a constant rate, so that a run can go on; the average does what a decay would"
        ),
        Setting(
            "optim.warmup_steps", min(steps // 10, 50 if machine.is_cpu else 500), "the heads start from random weights"
        ),
        Setting("optim.clip_norm", 10.0, "one bad batch cannot undo the run"),
        Setting("optim.precision", "auto", f"{machine.precision} here"),
    ]
    if uses_labels and not machine.is_cpu:
        why = "the teacher labels so many images at once; with 1 a label depends on nothing but its image, bit for bit"
        settings.append(Setting("labels.forward_images", max(1, min(8, others // machine.gpus)), why))
    if passes > 1:
        why = (
            f"{plural(views_per_step, 'view')} of {pixels / 1e6:.1f} megapixels in one pass would not fit "
            f"{machine}; an estimate"
        )
        settings.append(Setting("optim.accumulate", passes, why))
    return settings
