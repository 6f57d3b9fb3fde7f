"""What a flag rests on: the match in the frame of the generated image, in words and as pictures."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from mi_callback import MemorizationDetector, build_encoder
from mi_callback.errors import DataError, StateError
from mi_callback.images.perturbations import affine, implant, paste
from mi_callback.images.poses import POSES, orbit, undo
from mi_callback.images.thumbnails import THUMBNAIL_SIDE, make_thumbnails
from mi_callback.registration.schedule import register
from mi_callback.reporting import evidence as module
from mi_callback.reporting.evidence import Geometry, collect, difference, draw, draw_gallery, planes, write

SIDE = THUMBNAIL_SIDE[2]

MOVED = {"rotation": 9.0, "scale_x": 1.12, "scale_y": 0.95, "shift_x": 0.06, "shift_y": -0.03}


def slices(n: int, seed: int, side: int = SIDE) -> torch.Tensor:
    """n images `(n, 1, side, side)` with coarse and fine structure, as different as people, in an oval on black."""
    generator = torch.Generator().manual_seed(seed)
    grown = [
        F.interpolate(torch.rand(n, 1, k, k, generator=generator), (side, side), mode="bicubic", align_corners=True)
        for k in (7, 16)
    ]
    axis = torch.linspace(-1, 1, side)
    outline = ((axis[:, None] / 0.8) ** 2 + (axis / 0.65) ** 2 < 1).float()
    return (0.2 + grown[0] + 0.7 * grown[1]).clamp_min(0) * outline


def volumes(n: int, seed: int, shape: tuple = (28, 40, 32)) -> torch.Tensor:
    """The same of volumes, no two sides alike, `(n, 1, *shape)`."""
    generator = torch.Generator().manual_seed(seed)
    grown = [
        F.interpolate(torch.rand(n, 1, k, k, k, generator=generator), shape, mode="trilinear", align_corners=True)
        for k in (5, 10)
    ]
    z, y, x = torch.meshgrid(*(torch.linspace(-1, 1, side) for side in shape), indexing="ij")
    return (0.1 + grown[0] + 0.7 * grown[1]).clamp_min(0) * torch.exp(-2 * (z**4 + y**4 + x**4))


def ids(prefix: str, n: int) -> list[str]:
    return [f"{prefix}{i}" for i in range(n)]


TRAIN, HELD_OUT, NOVEL = slices(24, 1), slices(20, 2), slices(4, 3)


def fit(subjects: bool = True, **options) -> MemorizationDetector:
    settings = {"encoder": build_encoder("pixels", sides=(4, 8), size=32), "verify": False, "poses": "dihedral"}
    people = {"subjects": ids("train", 24), "held_out_subjects": ids("held", 20)} if subjects else {}
    return MemorizationDetector(alpha=0.1, **(settings | options)).fit(TRAIN, held_out=HELD_OUT, **people)


@pytest.fixture(scope="module")
def detector():
    return fit()


def prove(detector, images, match, pose, **found):
    """Evidence for images as if these rows had been found in these poses: finding them is not the matter here."""
    scores = detector.score(images)
    flagged = torch.ones(len(images), dtype=torch.bool)
    subjects = [detector.train.subjects[row] for row in match]
    scores = replace(scores, flagged=flagged, match=torch.tensor(match), match_subject=subjects, pose=pose, **found)
    return {one.pose: one for one in detector.evidence(images, scores)}


@pytest.fixture(scope="module")
def posed(detector):
    """Pose → evidence for a copy of training image k that was turned, zoomed and moved, and then lies in that pose."""
    moved = affine(TRAIN[:8], **MOVED)
    copies = torch.cat([undo(pose, moved[k : k + 1]) for k, pose in enumerate(orbit("dihedral"))])
    return prove(detector, copies, list(range(8)), orbit("dihedral"))


@pytest.fixture(scope="module")
def mixed(detector):
    """Four novel images and three exact copies, and their scores, of which copies and one novel image are flagged."""
    images = torch.cat([NOVEL, TRAIN[[5, 0, 9]]])
    scores = detector.score(images)
    flagged = torch.tensor([False, True, False, False, True, True, True])
    return images, replace(scores, flagged=flagged)


def correlation(one: torch.Tensor, other: torch.Tensor) -> float:
    there = ~(one.isnan() | other.isnan())
    return float(torch.corrcoef(torch.stack([one[there], other[there]]))[0, 1])


# Definition


@pytest.mark.parametrize("seed", range(4))
def test_geometry_says_where_a_point_of_the_training_image_goes(seed):
    rng = np.random.default_rng(seed)
    angle, zoom, shift = np.deg2rad(rng.uniform(-170, 170)), rng.uniform(0.8, 1.3, 2), rng.uniform(-0.1, 0.1, 2)
    side, (x, y) = 200, rng.integers(70, 130, 2)
    dot = torch.zeros(1, 1, side, side)
    dot[0, 0, y - 2 : y + 3, x - 2 : x + 3] = 1
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])  # clockwise, as y points down
    inverse = np.linalg.inv(turn @ np.diag(zoom))
    theta = torch.tensor(np.c_[inverse, -inverse @ (2 * shift)], dtype=torch.float32)
    moved = F.grid_sample(dot, F.affine_grid(theta[None], [1, 1, side, side], align_corners=False), align_corners=False)
    weight = moved[0, 0].numpy()
    place = np.array([(weight * axis).sum() for axis in np.mgrid[:side, :side][::-1]]) / weight.sum()

    found = Geometry.of(theta)
    clockwise = np.deg2rad(found.rotation)
    across = (np.array([x, y]) - (side - 1) / 2) * found.zoom
    turned = [
        np.cos(clockwise) * across[0] - np.sin(clockwise) * across[1],
        np.sin(clockwise) * across[0] + np.cos(clockwise) * across[1],
    ]
    expected = turned + np.array(found.shift) / 100 * side + (side - 1) / 2
    np.testing.assert_allclose(expected, place, atol=0.3)
    assert found.rotation == pytest.approx(np.rad2deg(angle), abs=0.01)
    assert found.zoom == pytest.approx(tuple(zoom), rel=1e-4)


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


@pytest.mark.parametrize("pose", orbit("dihedral"))
def test_the_match_is_shown_in_the_frame_of_the_generated_image(posed, pose):
    one = posed[pose]
    k = list(POSES).index(pose)
    copy = undo(pose, affine(TRAIN[k : k + 1], **MOVED))[0, 0]
    assert correlation(one.generated, copy) > 0.99  # as it came, not posed
    assert correlation(one.reference, TRAIN[k, 0]) > 0.99
    assert correlation(one.generated, one.aligned) > 0.95
    assert 0 <= float(one.aligned.nan_to_num().min()) <= float(one.aligned.nan_to_num().max()) <= 1
    structure = one.generated > 0.3
    assert float(one.lncc_map[structure].nanmean()) > 0.9
    assert float(one.difference[structure].abs().nanmean()) < 0.04


@pytest.mark.parametrize("pose", orbit("dihedral"))
def test_geometry_is_recovered_in_every_pose(posed, pose):
    found = posed[pose].geometry
    angle = np.deg2rad(MOVED["rotation"])
    right, down = MOVED["scale_x"] * MOVED["shift_x"], MOVED["scale_y"] * MOVED["shift_y"]
    shift = (100 * (np.cos(angle) * right - np.sin(angle) * down), 100 * (np.sin(angle) * right + np.cos(angle) * down))
    assert found.rotation == pytest.approx(MOVED["rotation"], abs=1.5)
    assert found.zoom == pytest.approx((MOVED["scale_x"], MOVED["scale_y"]), rel=0.02)
    assert found.shift == pytest.approx(shift, abs=2)


def test_nothing_is_said_where_the_training_image_has_no_pixels(detector):
    # Moved to the right by an eighth, then mirrored: the right eighth of the generated image is not the match's.
    image = POSES["flip_horizontal"](affine(TRAIN[3:4], shift_x=0.125))
    one = prove(detector, image, [3], ["flip_horizontal"])["flip_horizontal"]
    empty = SIDE // 8
    imaged = one.generated > 0.05  # flat windows at the edge of the overlap may be left out too
    for shown, reach in ((one.aligned, 1), (one.difference, 1), (one.lncc_map, 5)):
        assert shown[:, -empty + 1 :].isnan().all()
        assert not shown[:, : -empty - reach][imaged[:, : -empty - reach]].isnan().any()
    assert one.lncc_map[:, -empty - 3 :].isnan().all()  # windows of 9 pixels


def test_windows_that_a_warp_moved_out_are_not_shown_as_unlike(detector, mixed):
    images, scores = mixed
    pair = make_thumbnails(images[4:5], SIDE)
    alignment = register(pair, pair)
    edited = torch.full_like(alignment.lncc_map, 0.8)
    edited[:, :2, 40:50] = 0  # at the edge: outside
    edited[:, 50, 50] = 0  # in the middle: no correlation
    (one,) = collect(
        scores,
        [4],
        pair,
        pair,
        replace(alignment, lncc_map=edited),
        detector.null,
        sources=[None],
        match_sources=[None],
    )
    assert one.lncc_map[:2, 40:50].isnan().all()
    assert one.lncc_map[50, 50] == 0
    assert int(one.lncc_map.isnan().sum()) == 20


@pytest.fixture(scope="module")
def parts():
    """Detector with regions, images of which a half comes from training images 0 to 7, which half, and their scores."""
    detector = fit(encoder="bundled", verify=True, views=False, poses="none")
    moved, others = affine(TRAIN[:8], rotation=4.0, scale_x=1.05, scale_y=1.05), slices(8, 5)
    seed = 7
    images = paste(others, moved, 0.5, torch.Generator().manual_seed(seed))
    copied = paste(torch.zeros_like(others), torch.ones_like(others), 0.5, torch.Generator().manual_seed(seed)) > 0
    return detector, images, copied[:, 0], detector.score(images)


def test_a_half_pasted_into_another_image_is_flagged_and_matched(parts):
    detector, _, _, scores = parts
    assert scores.flagged.all()
    assert scores.match.tolist() == list(range(8))
    assert scores.window.shape == (8,)
    assert ((scores.window >= -1) & (scores.window < 9)).all()
    assert (scores.window >= 0).sum() >= 4
    assert not detector.score(NOVEL).flagged.all()


def test_a_quarter_implanted_into_another_image_is_flagged_and_matched(parts):
    detector = parts[0]
    scores = detector.score(implant(affine(TRAIN[8:14], rotation=5.0), slices(6, 6)))
    assert scores.flagged.all()
    assert scores.match.tolist() == list(range(8, 14))


def test_evidence_of_a_copied_part_aligns_that_part(parts):
    detector, images, copied, scores = parts
    found = detector.evidence(images, scores)
    assert len(found) == 8
    for one in found:
        inner = -F.max_pool2d(-copied[one.row][None].float(), 13, stride=1, padding=6)[0] > 0  # not its border
        inner &= one.generated > 0.1
        assert correlation(one.generated[inner], one.aligned[inner]) > 0.9
        assert float(one.lncc_map[inner].nanmean()) > 0.9
        assert abs(one.geometry.rotation - 4) < 2.5
        assert correlation(one.generated[~copied[one.row]], one.aligned[~copied[one.row]]) < 0.9


def test_a_detector_without_regions_looks_no_windows_up(parts):
    _, images, _, with_regions = parts
    detector = fit(encoder="bundled", verify=True, views=False, poses="none", regions=False)
    scores = detector.score(images)
    assert detector.train.regions == {}
    assert detector.reference.regions is None
    assert (scores.window == -1).all()
    assert torch.equal(scores.similarity, with_regions.similarity)
    assert scores.verified.mean() < with_regions.verified.mean()


# Volumes


@pytest.mark.parametrize("seed", range(3))
def test_geometry_of_a_volume_says_where_a_point_of_the_training_volume_goes(seed):
    rng = np.random.default_rng(seed)
    axis = rng.normal(size=3)
    x, y, z = axis / np.linalg.norm(axis)
    angle, zoom, shift = np.deg2rad(rng.uniform(5, 170)), rng.uniform(0.8, 1.3, 3), rng.uniform(-0.1, 0.1, 3)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turn = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross  # Rodrigues
    inverse = np.linalg.inv(turn @ np.diag(zoom))
    found = Geometry.of(torch.tensor(np.c_[inverse, -inverse @ (2 * shift)]))
    assert found.zoom == pytest.approx(tuple(zoom), rel=1e-4)
    assert found.shift == pytest.approx(tuple(100 * shift), abs=1e-3)
    isotropic = np.linalg.inv(turn * 1.2)
    assert Geometry.of(torch.tensor(np.c_[isotropic, np.zeros(3)])).rotation == pytest.approx(
        np.rad2deg(angle), abs=0.01
    )
    # Along the axis named: a point of the training volume on the right moves with the width, and so on.
    for k in range(3):
        moved = Geometry.of(torch.tensor(np.c_[np.eye(3), -2 * 0.1 * np.eye(3)[k]]))
        assert moved.shift == pytest.approx([10 * (j == k) for j in range(3)], abs=1e-6)
        assert moved.words() == [f"moved by 10 % {('to the right', 'down', 'to later slices')[k]}"]


def test_the_geometry_of_a_volume_is_told_in_words():
    assert Geometry(12.34, (1.2, 0.9, 1.0), (3.0, -4.0, -5.0)).words() == [
        "zoomed 1.20 times in width, 0.90 times in height and 1.00 times in depth",
        "turned by 12.3°",
        "moved by 3 % to the right, 4 % up and 5 % to earlier slices",
    ]
    assert Geometry(0.1, (1.1, 1.1, 1.11), (0.0, 0.0, 2.0)).words() == [
        "zoomed 1.10 times",
        "moved by 2 % to later slices",
    ]
    assert Geometry(0.0, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)).words() == []


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


@pytest.fixture(scope="module")
def of_volumes():
    """Detector of volumes, copies of six of them in as many poses, their scores and evidence."""
    train, poses = volumes(16, 1), ["identity", "flip_depth", "flip_all", "flip_depth_vertical", "rotation_180"]
    copies = torch.cat([undo(pose, train[k : k + 1]) for k, pose in enumerate(poses)])
    encoder = build_encoder("slices", encoder="pixels", sides=(4, 8), size=32, slices=4)
    detector = MemorizationDetector(encoder, alpha=0.1, candidates=2, regions=False, views=False, null_size=12)
    detector.fit(train, subjects=ids("train", 16), held_out=volumes(12, 2))
    scores = detector.score(copies)
    return detector, copies, scores, poses, {one.row: one for one in detector.evidence(copies, scores)}


def test_flipped_copies_of_volumes_are_flagged_in_their_pose(of_volumes):
    detector, _, scores, poses, found = of_volumes
    assert scores.flagged.all()
    assert scores.pose == poses
    assert scores.match.tolist() == list(range(5))
    assert sorted(found) == list(range(5))
    assert not detector.score(volumes(4, 3)).flagged.all()


def test_the_match_of_a_volume_is_shown_in_the_frame_of_the_generated_one(of_volumes):
    _, copies, _, poses, found = of_volumes
    side = 48
    for row, one in found.items():
        assert one.generated.shape == one.reference.shape == one.aligned.shape == one.lncc_map.shape == (2 * side,) * 2
        assert torch.equal(
            one.generated.nan_to_num(-1), planes(make_thumbnails(copies[[row]], side)[0] / 255).nan_to_num(-1)
        )
        assert one.generated[side:, side:].isnan().all()
        assert correlation(one.generated, one.aligned) > 0.98
        assert float(one.difference.abs().nanmean()) < 0.03
        assert float(one.lncc_map.nanmean()) > 0.9
        assert one.steps[-1:] == ([] if row == 0 else [module._UNPOSED[poses[row]]])


def test_a_copy_in_another_contrast_is_shown_beside_the_match_in_that_contrast(detector):
    bright = TRAIN[3:4] / TRAIN[3:4].max()
    by_edges = torch.tensor([True])
    plain, recoloured = (
        prove(detector, copy, [3], ["identity"], by_edges=by_edges)["identity"]
        for copy in (bright, 1 - (2 * bright - 1).abs())
    )
    assert not plain.recoloured
    assert plain.steps == []
    assert recoloured.recoloured
    assert recoloured.steps[0].startswith("recoloured")
    assert recoloured.sentence.startswith("Recoloured (grey values through the curve that fits best)")
    assert correlation(recoloured.generated, recoloured.aligned) > 0.98
    assert float(recoloured.difference.abs().nanmean()) < 0.03


@pytest.mark.parametrize("name", orbit("flips", 3)[1:])
def test_the_words_for_a_pose_of_volumes_name_the_axes_that_it_turns(name):
    grid = torch.arange(8).view(2, 2, 2)
    turned = undo(name, grid)
    flipped = [axis for axis in range(3) if int(turned[0, 0, 0]) >> (2 - axis) & 1]
    words = ("along the depth", "top to bottom", "left to right")
    said = module._UNPOSED[name]
    expected = {"turned by 180°": [1, 2], "mirrored along every axis": [0, 1, 2]}
    assert flipped == expected.get(said, [axis for axis in range(3) if words[axis] in said])


def test_pictures_of_volumes_say_what_their_planes_are_and_part_them(of_volumes, posed, tmp_path):
    one = of_volumes[-1][3]
    page = draw(one)
    shown = [axes for axes in page.axes if axes.images]
    assert all(len(axes.lines) == 2 for axes in shown[:5])
    for axes, image in zip(
        shown, (one.generated, one.reference, one.aligned, one.difference, one.lncc_map), strict=False
    ):
        np.testing.assert_array_equal(np.ma.filled(axes.images[-1].get_array(), np.nan), image.numpy())
    said = " ".join(text.get_text() for text in page.texts).replace("\n", " ")
    assert "the middle planes are shown: across the depth upper left" in said
    flat = draw(posed["identity"])
    assert not any(axes.lines for axes in flat.axes if axes.images)
    assert "planes" not in " ".join(text.get_text() for text in flat.texts)
    files = write(list(of_volumes[-1].values()), tmp_path)
    assert len(files) == 6
    assert all(np.asarray(Image.open(file).convert("L")).std() > 10 for file in files)


def test_structure_of_planes_does_not_see_the_next_plane():
    image = torch.full((32, 32), 0.2)
    image[:16, 16:] = 0.8  # flat in itself
    image[16:, 16:] = torch.nan
    assert module._structure(image, 2).max() < 1e-2
    assert module._structure(image, 1).max() > 0.9


# Promises


def test_evidence_is_for_flagged_images_most_certain_first(detector, mixed):
    images, scores = mixed
    found = detector.evidence(images, scores)
    assert {one.row for one in found} == {1, 4, 5, 6}
    assert found[-1].row == 1  # the novel one
    assert [one.p_value for one in found] == sorted(one.p_value for one in found)
    assert [one.row for one in detector.evidence(images, scores, 2)] == [one.row for one in found[:2]]
    assert detector.evidence(images, scores, 0) == []
    by_row = {one.row: one for one in found}
    for row, source in ((4, 5), (5, 0), (6, 9)):
        one = by_row[row]
        assert (one.match, one.subject, one.pose) == (source, f"train{source}", "identity")
        assert one.p_value == float(scores.p_value[row])
        assert one.similarity == float(scores.similarity[row])
    assert by_row[1].difference.abs().nanmean() > 5 * by_row[4].difference.abs().nanmean()


def test_what_novel_images_reach_is_told(detector, mixed):
    one = detector.evidence(*mixed)[0]
    assert one.decides == "similarity"
    assert one.null_median == float(detector.null.similarity.median())
    assert one.null_max == float(detector.null.similarity.max())
    assert one.null_people == 20
    assert 0.9 < one.verified <= 1.001  # measured for the picture, though it decided nothing


def test_the_numbers_are_those_that_decided():
    detector = fit(verify=True, poses="none", candidates=2, null_size=20)
    scores = detector.score(TRAIN[:3])
    for one in detector.evidence(TRAIN[:3], scores):
        assert one.decides == "verified"
        assert one.verified == float(scores.verified[one.row])
        assert one.copied_fraction == float(scores.copied_fraction[one.row])


def test_of_a_data_set_only_flagged_images_are_read(detector, mixed):
    images, scores = mixed

    class Files(torch.utils.data.Dataset):
        def __init__(self):
            self.read = []

        def __len__(self):
            return len(images)

        def __getitem__(self, i):
            self.read.append(i)
            return {"image": images[i], "filename_or_obj": f"folder/{i}.png"}

    files = Files()
    found, expected = detector.evidence(files, scores), detector.evidence(images, scores)
    assert sorted(files.read) == [1, 4, 5, 6]
    for one, other in zip(found, expected, strict=True):
        assert (one.source, other.source) == (f"folder/{one.row}.png", None)
        assert torch.equal(one.generated, other.generated)
        assert torch.equal(one.lncc_map.nan_to_num(-1), other.lncc_map.nan_to_num(-1))


def test_the_sentence_says_what_was_measured(posed):
    one = replace(
        posed["flip_horizontal"],
        row=17,
        match=203,
        subject="IXI042",
        geometry=Geometry(-14.8, (1.112, 1.108), (0.2, -12.4)),
        verified=0.981,
        copied_fraction=0.968,
        null_median=0.712,
        null_max=0.884,
        null_people=156,
        p_value=0.0361,
        decides="verified",
    )
    assert one.headline == "Generated image 17 is flagged as a copy of training image 203 (subject IXI042)"
    assert one.sentence == (
        "Zoomed 1.11 times, turned by 14.8° counter-clockwise, moved by 12 % up, then mirrored left to right, training "
        "image 203 agrees with generated image 17 (local correlation, LNCC, 0.98 of 1 where they agree best); 97 % of "
        "the structure agrees beyond what 95 % of novel images show. "
        "Real images of 156 people that were not trained on reach 0.71 in the median and 0.88 at most; "
        "a novel image comes this close with a probability of at most 0.036."
    )
    still = replace(one, geometry=Geometry(0.1, (1.0, 1.0), (0.0, 0.0)), pose="identity", subject=None)
    assert still.sentence.startswith("As it is, training image 203 agrees")
    assert still.headline.endswith("training image 203")
    turned = replace(one, geometry=Geometry(5.0, (1.2, 0.9), (3.0, 4.0)), pose="rotation_90")
    assert turned.sentence.startswith(
        "Zoomed 1.20 times in width and 0.90 times in height, turned by 5.0° clockwise, moved by 3 % to the right and "
        "4 % down, then turned by 90° clockwise, training"
    )
    unknown = replace(one, subjects_known=False, decides="similarity", similarity=0.93)
    assert "The feature similarity, which decides here, is 0.93. 156 real images that were not" in unknown.sentence
    assert "Training images of 156 people that were compared with other" in replace(one, null_kind="cross_fit").sentence
    assert "not calibrated" in replace(one, null_kind="train_halves").sentence


@pytest.mark.parametrize("pose", orbit("dihedral")[1:])
def test_the_words_for_a_pose_lead_from_the_training_image_to_the_generated_one(pose):
    """The corner marked in the training image goes where the words say."""
    words = {
        "mirrored left to right": ("top right", "bottom right"),
        "mirrored top to bottom": ("bottom left", "top left"),
        "turned by 180°": ("bottom right", "top right"),
        "turned by 90° clockwise": ("top right", "top left"),
        "turned by 90° counter-clockwise": ("bottom left", "bottom right"),
        "mirrored along the falling diagonal": ("top left", "top right"),
        "mirrored along the rising diagonal": ("bottom right", "bottom left"),
    }[module._UNPOSED[pose]]
    corners = {"top left": (0, 0), "top right": (0, 1), "bottom left": (1, 0), "bottom right": (1, 1)}
    training = torch.tensor([[1, 0], [2, 0]])  # 1 in the top left, 2 in the bottom left
    generated = undo(pose, training)
    assert [int(generated[corners[corner]]) for corner in words] == [1, 2]


def test_files_are_written_and_those_of_an_earlier_run_go(posed, tmp_path):
    folder = tmp_path / "report" / "evidence"
    flags = [replace(posed["identity"], row=17), replace(posed["rotation_90"], row=12345)]
    files = write(flags, folder)
    assert [file.name for file in files] == ["evidence_0017.png", "evidence_12345.png", "gallery.png"]
    for file in files:
        pixels = np.asarray(Image.open(file).convert("L"))
        assert min(pixels.shape) >= 200
        assert pixels.std() > 10
    (folder / "mine.txt").touch()
    write(flags[:1], folder)
    assert {file.name for file in folder.iterdir()} == {"evidence_0017.png", "gallery.png", "mine.txt"}
    assert write([], folder) == []
    assert {file.name for file in folder.iterdir()} == {"mine.txt"}
    assert write([], tmp_path / "none") == []
    assert not (tmp_path / "none").exists()


def test_the_gallery_says_what_it_leaves_out(posed, monkeypatch):
    monkeypatch.setattr(module, "GALLERY", 3)
    flags = [replace(posed["identity"], row=row) for row in range(5)]

    def words(page):
        return [text.get_text() for text in page.texts]

    page = draw_gallery(flags, left_out=7)
    assert len(page.axes) == 3 * 4
    assert words(page)[0] == "3 flagged images, most certain first; 9 more not shown"
    assert [int(text.split(",")[0].split()[-1]) for text in words(page) if text.startswith("Generated image")] == [
        0,
        1,
        2,
    ]
    whole = draw_gallery(flags[:1])
    assert len(whole.axes) == 4
    assert words(whole)[0] == "1 flagged image, most certain first"
    assert not any("not shown" in text for text in words(whole))


def test_panels_show_what_they_say(posed):
    one = posed["flip_vertical"]
    page = draw(one)
    shown = [np.ma.filled(axes.images[-1].get_array(), np.nan) for axes in page.axes if axes.images]
    for panel, image in zip(
        shown, (one.generated, one.reference, one.aligned, one.difference, one.lncc_map), strict=True
    ):
        np.testing.assert_array_equal(panel, image.numpy())
    scales = [axes.images[-1].get_clim() for axes in page.axes if axes.images]
    assert scales[:3] == [(0, 1)] * 3
    assert scales[3] == (-0.5, 0.5)
    assert scales[4] == (0, 1)


@pytest.mark.parametrize("subject", [None, "IXI042", "$x_{$ " + "long-identifier/" * 20])
def test_no_text_touches_another_or_leaves_the_page(posed, subject):
    one = replace(
        posed["rotation_270"],
        subject=subject,
        source=subject,
        match_source=subject,
        null_kind="train_halves",
        row=99999,
    )
    for page in (draw(one), draw_gallery([one] * 3)):
        page.canvas.draw()
        renderer = page.canvas.get_renderer()
        texts = [*page.texts, *(label for axes in page.axes for label in axes.get_xticklabels())]
        boxes = [text.get_window_extent(renderer) for text in texts if text.get_text()]
        boxes += [axes.get_window_extent(renderer) for axes in page.axes]
        width, height = page.canvas.get_width_height()
        for k, box in enumerate(boxes):
            assert box.x0 >= 0
            assert box.y0 >= 0
            assert box.x1 <= width
            assert box.y1 <= height
            for other in boxes[:k]:
                across = min(box.x1, other.x1) - max(box.x0, other.x0)
                down = min(box.y1, other.y1) - max(box.y0, other.y0)
                assert across <= 0 or down <= 0, f"{box} and {other}"


def test_ids_and_pixels_are_not_printed(posed):
    text = repr(posed["identity"])
    assert "train" not in text
    assert "tensor" not in text


# Refusals


def test_evidence_of_an_unfitted_detector_is_refused(mixed):
    with pytest.raises(StateError, match=r"call fit\(train"):
        MemorizationDetector(encoder=build_encoder("pixels")).evidence(*mixed)


def test_images_that_cannot_be_looked_up_are_refused(detector, mixed):
    images, scores = mixed
    for container in (list(images[:, None]), iter(images)):
        with pytest.raises(DataError, match=r"needed images by position.*torch\.cat"):
            detector.evidence(container, scores)


def test_other_images_than_those_scored_are_refused(detector, mixed):
    with pytest.raises(DataError, match=r"needed the images that were scored \(7\); 6 came"):
        detector.evidence(mixed[0][:6], mixed[1])


def test_a_negative_number_is_refused(detector, mixed):
    with pytest.raises(DataError, match="at least 0, or None for all; -1 came"):
        detector.evidence(*mixed, n=-1)
