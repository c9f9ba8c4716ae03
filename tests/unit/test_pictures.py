from __future__ import annotations

import numpy as np
import torch

from raydet.vision.pictures import from_picture, to_picture


def test_pixels_become_the_picture_that_they_are_and_back_again():
    pixels = torch.randint(0, 256, (3, 5, 7), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for each in (pixels, pixels.flip(2), pixels[:, 1:4, ::2]):  # views that are not contiguous, too
        picture = to_picture(each)
        assert (picture.mode, picture.size) == ("RGB", (each.shape[2], each.shape[1]))
        assert np.array_equal(np.asarray(picture), each.permute(1, 2, 0).numpy())
        back = from_picture(picture)
        assert torch.equal(back, each) and back.is_contiguous() and back.dtype == torch.uint8
        back[:] = 0  # it shares nothing with the picture
        assert np.array_equal(np.asarray(picture), each.permute(1, 2, 0).numpy())
