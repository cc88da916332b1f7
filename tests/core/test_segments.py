import re

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from camrobust.core.segments import quickshift, segment_matrix


def labels_of(size=(40, 56), m=9, seed=0):
    labels = torch.randint(0, m, size, generator=torch.Generator().manual_seed(seed))
    labels.flatten()[:m] = torch.arange(m)
    return labels


@pytest.mark.parametrize("shape", [(7, 7), (13, 13), (1, 1), (5, 9), (1, 4), (40, 56), (60, 70)])
def test_equals_upsampling_and_a_mean_per_segment(shape):
    labels = labels_of()
    low = torch.rand(3, *shape, generator=torch.Generator().manual_seed(1))
    upsampled = interpolate(low[None].double(), size=labels.shape, mode="bilinear", align_corners=False)[0]
    found = low.flatten(1) @ segment_matrix(labels, *shape).T
    for map_number in range(3):
        for segment in range(9):
            pixels = [
                float(upsampled[map_number, y, x]) for y in range(40) for x in range(56) if int(labels[y, x]) == segment
            ]
            assert float(found[map_number, segment]) == pytest.approx(sum(pixels) / len(pixels), abs=1e-6)


def test_rows_sum_to_1_and_zero_maps_give_exact_zeros():
    matrix = segment_matrix(labels_of(), 7, 7)
    torch.testing.assert_close(matrix.sum(dim=1), torch.ones(9))
    assert (matrix @ torch.zeros(49) == 0).all()


def test_quickshift_is_scikit_images_and_labels_are_contiguous():
    from skimage.data import coffee
    from skimage.segmentation import quickshift as skimage_quickshift

    crop = coffee()[100:180, 200:290]
    image = torch.from_numpy(crop.copy()).permute(2, 0, 1)
    both = torch.stack([image, image.flip(1)])
    found = quickshift(both)
    wanted = skimage_quickshift(crop / 255.0, kernel_size=4, max_dist=200, ratio=0.2, rng=42)
    np.testing.assert_array_equal(found[0].numpy(), wanted)
    assert torch.equal(quickshift(image[None].double() / 255)[0], found[0])
    for labels in found:
        assert labels.unique().tolist() == list(range(int(labels.max()) + 1))


def test_a_plain_image_is_a_single_segment_or_more_but_never_none():
    assert quickshift(torch.zeros(1, 3, 16, 16)).min() == 0


def test_wrong_shape_is_told():
    sentence = "quickshift: images must have the shape (B, 3, H, W), got (3, 8, 8)"
    with pytest.raises(ValueError, match=re.escape(sentence)):
        quickshift(torch.zeros(3, 8, 8))
