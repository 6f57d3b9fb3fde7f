"""What is shown of a flag lies in the frame of the generated image."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from reporting.copies import MOVED, SIDE, TRAIN, correlation, prove

from mi_callback.images.perturbations import affine
from mi_callback.images.poses import POSES, orbit, undo
from mi_callback.images.thumbnails import THUMBNAIL_SIDE, make_thumbnails
from mi_callback.registration.schedule import register
from mi_callback.reporting.geometry import POSE_UNDONE
from mi_callback.reporting.pictures import difference, pictures_of, planes


def test_difference_is_the_residual_of_least_squares(generator):
    ours, theirs = torch.rand(2, 20, 20, generator=generator)
    theirs[:5] = torch.nan
    there = ~theirs.isnan()
    design = np.c_[theirs[there].numpy(), np.ones(int(there.sum()))]
    fit, *_ = np.linalg.lstsq(design, ours[there].numpy(), rcond=None)
    found = difference(ours, theirs)
    assert found.isnan().equal(~there)
    np.testing.assert_allclose(found[there].numpy(), ours[there].numpy() - design @ fit, atol=1e-5)


def test_difference_knows_neither_gain_nor_offset(generator):
    theirs = torch.rand(20, 20, generator=generator)
    torch.testing.assert_close(difference(0.4 * theirs + 0.3, theirs), torch.zeros(20, 20), atol=1e-5, rtol=0)
    blank = torch.zeros(20, 20)
    torch.testing.assert_close(difference(theirs, blank), theirs - theirs.mean(), atol=1e-5, rtol=0)
    assert difference(theirs, torch.full((20, 20), torch.nan)).isnan().all()
    half = torch.arange(20).expand(20, 20) < 10
    mixed = torch.where(half, 0.4 * theirs + 0.3, theirs.flip(0))
    assert difference(mixed, theirs, half)[half].abs().max() < 1e-5
    assert difference(mixed, theirs)[half].abs().max() > 0.01


def test_planes_are_those_in_the_middle_across_each_axis(generator):
    volume = torch.rand(8, 8, 8, generator=generator)
    shown = planes(volume)
    assert shown.shape == (16, 16)
    for a in range(8):
        for b in range(8):
            assert shown[a, b] == volume[4, a, b]
            assert shown[a, 8 + b] == volume[a, 4, b]
            assert shown[8 + a, b] == volume[a, b, 4]
    assert shown[8:, 8:].isnan().all()
    assert torch.equal(planes(volume[0]), volume[0])


@pytest.mark.parametrize("pose", orbit("dihedral"))
def test_the_match_is_shown_in_the_frame_of_the_generated_image(posed, pose):
    shown = posed[pose].pictures
    k = list(POSES).index(pose)
    copy = undo(pose, affine(TRAIN[k : k + 1], **MOVED))[0, 0]
    assert correlation(shown.generated, copy) > 0.99  # as it came, not posed
    assert correlation(shown.reference, TRAIN[k, 0]) > 0.99
    assert correlation(shown.generated, shown.aligned) > 0.95
    assert 0 <= float(shown.aligned.nan_to_num().min()) <= float(shown.aligned.nan_to_num().max()) <= 1
    structure = shown.generated > 0.3
    assert float(shown.lncc_map[structure].nanmean()) > 0.9
    assert float(shown.difference[structure].abs().nanmean()) < 0.04


def test_the_match_of_a_volume_is_shown_in_the_frame_of_the_generated_one(of_volumes):
    _, copies, _, poses, found = of_volumes
    side = THUMBNAIL_SIDE[3]
    for row, one in found.items():
        shown = one.pictures
        assert {tuple(image.shape) for image in vars(shown).values()} == {(2 * side, 2 * side)}
        expected = planes(make_thumbnails(copies[[row]], side)[0] / 255)
        assert torch.equal(shown.generated.nan_to_num(-1), expected.nan_to_num(-1))
        assert shown.generated[side:, side:].isnan().all()
        assert correlation(shown.generated, shown.aligned) > 0.98
        assert float(shown.difference.abs().nanmean()) < 0.03
        assert float(shown.lncc_map.nanmean()) > 0.9
        assert one.change.steps[-1:] == ([] if row == 0 else [POSE_UNDONE[poses[row]]])


def test_nothing_is_said_where_the_training_image_has_no_pixels(detector):
    # Moved to the right by an eighth, then mirrored: the right eighth of the generated image is not the match's.
    image = POSES["flip_horizontal"](affine(TRAIN[3:4], shift_x=0.125))
    shown = prove(detector, image, [3], ["flip_horizontal"])["flip_horizontal"].pictures
    empty = SIDE // 8
    imaged = shown.generated > 0.05  # flat windows at the edge of the overlap may be left out too
    for picture, reach in ((shown.aligned, 1), (shown.difference, 1), (shown.lncc_map, 5)):
        assert picture[:, -empty + 1 :].isnan().all()
        assert not picture[:, : -empty - reach][imaged[:, : -empty - reach]].isnan().any()
    assert shown.lncc_map[:, -empty - 3 :].isnan().all()  # windows of 9 pixels


def test_windows_that_a_warp_moved_out_are_not_shown_as_unlike():
    pair = make_thumbnails(TRAIN[5:6], SIDE)
    alignment = register(pair, pair)
    edited = torch.full_like(alignment.lncc_map, 0.8)
    edited[:, :2, 40:50] = 0  # at the edge: outside
    edited[:, 50, 50] = 0  # in the middle: no correlation
    (shown,) = pictures_of(pair, pair, replace(alignment, lncc_map=edited), ["identity"], [0.9])
    assert shown.lncc_map[:2, 40:50].isnan().all()
    assert shown.lncc_map[50, 50] == 0
    assert int(shown.lncc_map.isnan().sum()) == 20


def test_a_copy_in_another_contrast_is_shown_beside_the_match_in_that_contrast(detector):
    bright = TRAIN[3:4] / TRAIN[3:4].max()
    by_edges = torch.tensor([True])
    plain, recoloured = (
        prove(detector, copy, [3], ["identity"], by_edges=by_edges)["identity"]
        for copy in (bright, 1 - (2 * bright - 1).abs())
    )
    assert not plain.change.recoloured
    assert plain.change.steps == []
    assert recoloured.change.recoloured
    assert recoloured.change.steps[0].startswith("recoloured")
    assert recoloured.sentence.startswith("Recoloured (grey values through the curve that fits best)")
    assert correlation(recoloured.pictures.generated, recoloured.pictures.aligned) > 0.98
    assert float(recoloured.pictures.difference.abs().nanmean()) < 0.03
