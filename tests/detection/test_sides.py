"""Are held-out people like training people?"""

import pytest
import torch
import torch.nn.functional as F

from mi_callback import MemorizationDetector, build_encoder
from mi_callback.detection.sides import difference_of_sides
from mi_callback.images.files import SliceFolder
from mi_callback.retrieval.extraction import extract
from mi_callback.retrieval.features import Features

ENCODER = build_encoder("pixels", sides=(4, 8), size=32)


def people(n: int, seed: int, each: int = 2) -> torch.Tensor:
    """Images of n people, `each` of them much alike, `(n * each, 1, 48, 48)`."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 1, 9, 9, generator=generator).repeat_interleave(each, 0)
    coarse = coarse + 0.1 * torch.rand(coarse.shape, generator=generator)
    axis = torch.linspace(-1, 1, 48)
    return F.interpolate(coarse, (48, 48), mode="bicubic").clamp_min(0) * (axis[:, None] ** 2 + axis**2 < 0.8)


def features(images: torch.Tensor, name: str, each: int = 2, known: bool = True) -> Features:
    subjects = [f"{name}{i // each}" for i in range(len(images))] if known else None
    return extract(images, ENCODER, subjects=subjects)


def noisy(images: torch.Tensor) -> torch.Tensor:
    return images + 0.05 * torch.randn(images.shape, generator=torch.Generator().manual_seed(9))


def with_text(images: torch.Tensor) -> torch.Tensor:
    images = images.clone()
    images[..., 3:5, 3:15] = 1.0
    return images


def with_a_head_rest(images: torch.Tensor) -> torch.Tensor:
    images = images.clone()
    images[..., 44:46, 8:40] = 0.6
    return images


CHANGES = {"noise": noisy, "burnt-in text": with_text, "bottom margin": with_a_head_rest}


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("name", CHANGES)
def test_a_difference_is_named_whichever_side_it_is_on(name, known):
    plain, changed = people(25, 1), CHANGES[name](people(20, 2))
    for train, held_out in ((plain, changed), (changed, plain)):
        found = difference_of_sides(features(train, "a", known=known), features(held_out, "b", known=known))
        assert found is not None
        assert name in found
        assert "Hold out people of the same source" in found


@pytest.mark.parametrize("known", [True, False])
def test_sides_of_one_source_are_hardly_ever_called_different(known):
    said = [
        difference_of_sides(features(people(25, s), "a", known=known), features(people(20, 100 + s), "b", known=known))
        for s in range(12)
    ]
    assert sum(one is not None for one in said) <= 1


def test_many_images_of_some_people_are_no_difference():
    # Means over eight images vary less than those over one.
    found = difference_of_sides(
        features(people(25, 1, each=8), "a", each=8), features(people(20, 2, each=1), "b", each=1)
    )
    assert found is None


@pytest.mark.parametrize("contrast", [False, True])
def test_a_detector_whose_sides_differ_says_neither_clean_nor_memorized(contrast):
    train, novel = with_text(people(30, 1)), with_text(people(10, 3))
    detector = MemorizationDetector(encoder=ENCODER, verify=False, alpha=0.1, contrast=contrast)
    held_out = people(25, 2)
    ids, others = [f"a{i // 2}" for i in range(60)], [f"b{i // 2}" for i in range(50)]
    with pytest.warns(UserWarning, match="burnt-in text.*inconclusive"):
        detector.fit(train, subjects=ids, held_out=held_out, held_out_subjects=others)
    for samples in (novel, train[:10]):
        scores = detector.score(samples)
        assert scores.verdict == "inconclusive"
        assert "burnt-in text" in scores.doubts[0]
        assert not scores.alarm(1)
        assert "rate_lower" not in scores.summary()


def test_the_difference_is_kept_with_the_state(tmp_path):
    def made() -> MemorizationDetector:
        return MemorizationDetector(encoder=ENCODER, verify=False, alpha=0.1)

    ids, others = [f"a{i // 2}" for i in range(60)], [f"b{i // 2}" for i in range(50)]
    with pytest.warns(UserWarning, match="differ"):
        fitted = made().fit(with_text(people(30, 1)), ids, people(25, 2), others)
    fitted.save(tmp_path / "state")
    assert made().load(tmp_path / "state").state.difference == fitted.state.difference


@pytest.mark.mri
def test_splits_of_one_site_are_alike_and_another_sequence_is_not(mri):
    folder = SliceFolder(mri / "ixi_t1" / "slices", size=(96, 96))
    rows = [i for i in range(len(folder)) if i % 17 == 8]
    images, ids = torch.stack([folder[i]["image"] for i in rows]), [folder.subjects[i] for i in rows]
    brains = extract(images, ENCODER, subjects=ids)
    even = torch.arange(len(rows)) % 2 == 0
    assert difference_of_sides(brains.where(even), brains.where(~even)) is None
    other = SliceFolder(mri / "open_ms" / "slices", size=(96, 96))
    some = list(range(0, len(other), 40))
    flair = extract(torch.stack([other[i]["image"] for i in some]), ENCODER, subjects=[f"f{i}" for i in some])
    assert difference_of_sides(brains.where(even), flair) is not None
