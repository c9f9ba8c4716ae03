"""Figures of images between two lines of the log."""

from __future__ import annotations

import torch

from raydet.window import PerImageStats, Window


def test_means_are_over_the_images_that_have_a_figure_whatever_their_rank_and_step():
    lead, other = Window(), Window()
    for window, rows in ((lead, [1.0, torch.nan]), (lead, [4.0, torch.nan]), (other, [7.0, torch.nan])):
        stats = PerImageStats(2)
        stats.observe(
            {"area": torch.tensor(rows), "kept": torch.tensor([True, False]), "odd": torch.tensor([torch.inf])}
        )
        stats.add_to(window)
    total = lead.merged([lead, other])
    assert total.sums["images"] == 6
    names = {"area": "boxes/area", "kept": "gate/kept", "odd": "boxes/odd", "never": "boxes/never"}
    assert total.means(names) == {"boxes/area": 4.0, "gate/kept": 0.5}
