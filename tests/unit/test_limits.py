"""Each sentence about what limits a run comes from figures, and is silent where they do not support it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raydet.contract import Finding
from raydet.families.classification import limits as classes
from raydet.families.detection.limits.figures import BoxFigures, ClassCounts, Judged
from raydet.families.detection.limits.rules import box_findings
from raydet.families.detection.method import Thresholds
from raydet.families.detection.thresholds.count import Reading

SCORE, QUALITY = "method.score_threshold", "method.iou_filter_threshold"
TRUTHS = 1000


def reading(score: float, boxes: int, hits: int, *, is_complete: bool = True) -> Reading:
    precision = hits / boxes if boxes else None
    return Reading(score, None, boxes, hits, boxes / 500, precision, hits / TRUTHS, None, None, is_complete)


def figures(now: Reading, *others: Reading, **changes: object) -> BoxFigures:
    """A run with one class, whose labels are as in `now`."""
    at = sorted([now, *others], key=lambda each: each.score)
    own = {"ungated": None, "classes": [], "class_errors": None, "truths": TRUTHS}
    own |= {key: changes.pop(key) for key in list(changes) if key in own}
    judged = Judged(now=now, at=at, **own)
    found = BoxFigures(Thresholds(SCORE, QUALITY), now.score, 0.4, judged, None, None, None)
    return replace(found, **changes)


FINE = reading(0.7, 800, 720)  # precision .9, recall .72


def only(found: list[Finding]) -> Finding:
    assert len(found) == 1, [each.sentence for each in found]
    return found[0]


def test_good_labels_are_no_limit():
    assert box_findings(figures(FINE)) == []


def test_an_unsure_teacher_is_told_to_lower_the_threshold_where_that_helps():
    now = reading(0.7, 105, 100)  # 100 of 1000 found, 95.2 % right
    found = only(
        box_findings(figures(now, reading(0.5, 400, 340), reading(0.3, 900, 500), reading(0.6, 120, 110), FINE))
    )
    assert found.uses_truth
    assert found.sentence == (
        "The teacher is unsure: it keeps 10 % of the true boxes at method.score_threshold=0.7, and 95 % of what it "
        "keeps is right. Lower it: at 0.5 it keeps 34 %, and 85 % is right. A student learns what is missed as "
        "background."
    )
    assert found.figures == {
        "precision at method.score_threshold=0.7": "95.2",
        "recall": "10.0",
        "pseudo-boxes": "105",
        "true boxes": "1000",
        "precision at 0.5": "85.0",
        "recall at 0.5": "34.0",
    }


@pytest.mark.parametrize(
    "lower",
    [
        reading(0.5, 400, 200),  # finds more, but 50 % right is more than 20 points below 95 %
        reading(0.5, 130, 120),  # only two points of recall more
        reading(0.5, 400, 340, is_complete=False),
        reading(0.5, 1251, 1000),  # more than 1.25 boxes per object
    ],
)
def test_a_lower_threshold_that_does_not_help_is_not_recommended(lower: Reading):
    found = only(box_findings(figures(reading(0.7, 105, 100), lower)))
    assert "No lower threshold finds clearly more" in found.sentence
    assert "Lower it" not in found.sentence and "precision at 0.5" not in found.figures


def test_nothing_is_said_of_a_handful_of_boxes():
    assert box_findings(figures(reading(0.7, 19, 1), truths=19)) == []


def test_no_box_at_all_is_an_unsure_teacher():
    found = only(box_findings(figures(reading(0.7, 0, 0), reading(0.2, 300, 200))))
    assert found.sentence.startswith("The teacher is unsure: it keeps 0 % of the true boxes at")
    assert "Lower it: at 0.2 it keeps 20 %, and 67 % is right." in found.sentence


def test_wrong_boxes_want_a_higher_threshold_where_one_helps():
    now = reading(0.3, 1000, 400)
    found = only(box_findings(figures(now, reading(0.5, 500, 260), reading(0.6, 500, 300), reading(0.2, 3000, 500))))
    assert found.sentence == (
        "More than half of the pseudo-boxes are wrong at method.score_threshold=0.3. Raise it: at 0.5, 52 % are right."
    )
    assert found.figures["precision at 0.5"] == "52.0"
    # At 0.9 all are right, but one for every second object is the least that a student can learn from.
    found = only(box_findings(figures(now, reading(0.5, 600, 200), reading(0.9, 499, 499))))
    assert "No higher threshold mends that" in found.sentence


def test_a_gate_that_drops_right_boxes_for_nothing_is_named():
    # With the gate 720 of the 1200 right ones are left: 40 % dropped; precision 90 against 88 %.
    free = replace(FINE, boxes=1364, hits=1200, precision=1200 / 1364)
    found = only(box_findings(figures(FINE, ungated=free)))
    assert found.sentence == (
        "The quality gate drops 40 % of the right boxes, and those it leaves are hardly more often right: lower "
        "method.iou_filter_threshold."
    )
    assert found.figures == {
        "right boxes at method.iou_filter_threshold=0.4": "720",
        "right boxes without the gate": "1200",
        "precision with it": "90.0",
        "precision without it": "88.0",
    }
    worth_it = replace(free, boxes=2000, precision=0.6)  # from 60 to 90 % right
    assert box_findings(figures(FINE, ungated=worth_it)) == []
    assert box_findings(figures(FINE, ungated=replace(free, hits=890, precision=0.88))) == []  # drops 19 %


def test_classes_that_are_wrong_or_missed_are_named_worst_first():
    counts = [
        ClassCounts("fine", 500, 400, 390),
        ClassCounts("bad", 100, 40, 12),
        ClassCounts("worse", 100, 40, 8),
        ClassCounts("rare", 19, 0, 0),
        ClassCounts("unseen", 40, 1, 1),
        ClassCounts("few", 40, 19, 8),
    ]
    wrong, unseen = box_findings(figures(FINE, classes=counts))
    assert wrong.sentence.startswith("Pseudo-boxes of worse and bad are mostly wrong")
    assert wrong.figures == {"worse, right of kept": "8 of 40", "bad, right of kept": "12 of 40"}
    assert wrong.sentence.endswith("try a higher score threshold.")
    with_own = figures(FINE, classes=counts, thresholds=Thresholds(SCORE, QUALITY, by_class="method.class_thresholds"))
    ending = "try a higher score threshold of its own (method.class_thresholds)."
    of_wrong, of_unseen = box_findings(with_own)
    assert of_wrong.sentence.endswith(ending)
    assert "or try a lower score threshold of their own (method.class_thresholds)." in of_unseen.sentence
    assert unseen.sentence.startswith("The teacher finds next to nothing of unseen;")
    assert unseen.figures == {"unseen, found of true": "1 of 40"}


def test_where_classes_have_their_own_thresholds_labels_are_judged_all_the_same():
    own = Thresholds(SCORE, QUALITY, by_class="method.class_thresholds")

    def found(now: Reading) -> Finding:
        of = figures(now, thresholds=own)
        assert of.judged is not None
        return only(box_findings(replace(of, judged=replace(of.judged, at=()))))

    wrong, unsure = found(reading(0.3, 1000, 200)), found(reading(0.3, 105, 100))
    assert wrong.sentence == (
        "More than half of the pseudo-boxes are wrong at the thresholds that classes have of their own. raydet "
        "thresholds RUN says what higher ones would give; a better teacher mends more."
    )
    assert "at the thresholds that classes have of their own, and 95 % of what it keeps is right" in unsure.sentence
    assert "raydet thresholds RUN says what lower ones would give" in unsure.sentence


def test_where_no_class_is_found_the_threshold_is_the_matter():
    counts = [ClassCounts("a", 500, 0, 0), ClassCounts("b", 500, 0, 0)]
    assert "The teacher is unsure" in only(box_findings(figures(reading(0.7, 0, 0), classes=counts))).sentence


def test_classes_taken_for_each_other_are_named():
    counts = [ClassCounts("a", 500, 400, 360), ClassCounts("b", 500, 400, 360)]
    found = only(box_findings(figures(FINE, classes=counts, class_errors=0.15)))
    assert found.sentence.startswith("15 % of the kept boxes lie on an object of another class")
    assert box_findings(figures(FINE, classes=counts, class_errors=0.14)) == []
    assert box_findings(figures(FINE, classes=counts[:1], class_errors=0.5)) == []


def test_labels_that_were_cut_off_are_named():
    found = only(box_findings(figures(FINE, incomplete=0.05)))
    assert "raise labels.top_k" in found.sentence and not found.uses_truth
    assert box_findings(figures(FINE, incomplete=0.04)) == []


@pytest.mark.parametrize(
    ("kept", "words"), [(0.3, "lower method.score_threshold"), (4.0, "raise method.score_threshold"), (1.0, None)]
)
def test_without_truth_boxes_per_image_are_what_can_be_compared(kept: float, words: str | None):
    found = BoxFigures(Thresholds(SCORE), 0.7, None, None, None, kept, 1.8)
    if words is None:
        assert box_findings(found) == []
        return
    finding = only(box_findings(found))
    assert words in finding.sentence and not finding.uses_truth
    assert finding.figures == {
        "pseudo-boxes per image": f"{kept:.2f}",
        "boxes per labelled image": "1.80",
        SCORE: "0.7",
    }
    assert box_findings(replace(found, boxes_per_image=None)) == []


# classifiers


def label_figures(*counts: classes.ClassCounts, **changes: object) -> classes.LabelFigures:
    found = classes.LabelFigures("pseudo-labels", counts, None, [], [], ("cat", "dog", "owl"), None)
    return replace(found, **changes)


GOOD = [classes.ClassCounts("cat", 100, 100, 90), classes.ClassCounts("dog", 100, 100, 90)]


def test_good_labels_of_images_are_no_limit():
    even = [0.4, 0.3, 0.3]
    assert classes.label_findings(label_figures(*GOOD, confidence=0.9, shares=even, labeled_shares=even)) == []
    assert classes.label_findings(label_figures()) == []


def test_labels_that_are_mostly_wrong_are_said_to_be():
    found = only(classes.label_findings(label_figures(classes.ClassCounts("cat", 100, 100, 49))))
    assert found.sentence.startswith("Only 49 % of the pseudo-labels are right")
    assert found.figures == {"right pseudo-labels": "49.0 %", "of": "100"} and found.uses_truth
    assert classes.label_findings(label_figures(classes.ClassCounts("cat", 19, 19, 0))) == []


def test_labels_surer_than_right_are_said_to_be():
    # 180 of 200 right: 90 %
    assert classes.label_findings(label_figures(*GOOD, confidence=1.0)) == []
    half = [classes.ClassCounts("cat", 100, 100, 60)]
    found = only(classes.label_findings(label_figures(*half, confidence=0.75)))
    assert "surer than they are right" in found.sentence
    assert found.figures == {"mean probability": "75.0 %", "right": "60.0 %", "of": "100"}
    assert classes.label_findings(label_figures(*half, confidence=0.74)) == []


def test_classes_of_images_that_are_wrong_or_never_found_are_named():
    wrong, unseen = classes.label_findings(
        label_figures(*GOOD, classes.ClassCounts("owl", 50, 30, 2), classes.ClassCounts("emu", 19, 19, 0))
    )
    assert wrong.sentence.startswith("Images that are called owl are mostly something else")
    assert wrong.figures == {"owl, right of called so": "2 of 30"}
    assert unseen.sentence.startswith("Next to no image of owl is recognised")  # 2 of 50 are 4 %
    assert unseen.figures == {"owl, found of true": "2 of 50"}


def test_one_class_that_takes_most_labels_is_named_without_truth():
    found = only(classes.label_findings(label_figures(shares=[0.2, 0.6, 0.2], labeled_shares=[0.5, 0.2, 0.3])))
    assert found.sentence.startswith("60 % of the pseudo-labels are dog, of the labelled images 20 %")
    assert not found.uses_truth
    common = label_figures(shares=[0.2, 0.6, 0.2], labeled_shares=[0.39, 0.21, 0.4])  # not three times its share
    assert classes.label_findings(common) == []
    assert classes.label_findings(label_figures(shares=[0.51, 0.49, 0], labeled_shares=[0.18, 0.16, 0.66])) == []


def test_labels_that_have_not_settled_are_said_to():
    assert "still changed 20 %" in only(classes.label_findings(label_figures(changed=0.2))).sentence
    assert classes.label_findings(label_figures(changed=0.19)) == []
