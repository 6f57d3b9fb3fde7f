"""Evidence is collected for flagged images, from the images and the numbers that flagged them."""

import pytest
import torch
from reporting.copies import TRAIN, fit, volumes

from mi_callback import MemorizationDetector
from mi_callback.errors import DataError, StateError
from mi_callback.reporting import collect_evidence


def test_evidence_is_for_flagged_images_most_certain_first(detector, mixed):
    images, scores = mixed
    found = collect_evidence(detector, images, scores)
    assert {one.row for one in found} == {1, 4, 5, 6}
    assert found[-1].row == 1  # the novel one
    assert [one.measured.p_value for one in found] == sorted(one.measured.p_value for one in found)
    assert [one.row for one in collect_evidence(detector, images, scores, 2)] == [one.row for one in found[:2]]
    assert collect_evidence(detector, images, scores, 0) == []
    by_row = {one.row: one for one in found}
    for row, source in ((4, 5), (5, 0), (6, 9)):
        one = by_row[row]
        assert (one.match, one.subject, one.change.pose) == (source, f"train{source}", "identity")
        assert one.measured.p_value == float(scores.p_value[row])
        assert one.measured.similarity == float(scores.similarity[row])
    assert by_row[1].pictures.difference.abs().nanmean() > 5 * by_row[4].pictures.difference.abs().nanmean()


def test_what_novel_images_reach_is_told(detector, mixed):
    one = collect_evidence(detector, *mixed)[0]
    assert one.measured.decides == "similarity"
    assert one.novel.median == float(detector.state.null.similarity.median())
    assert one.novel.maximum == float(detector.state.null.similarity.max())
    assert one.novel.people == 20
    assert 0.9 < one.measured.verified <= 1.001  # measured for the picture, though it decided nothing


def test_the_numbers_are_those_that_decided():
    detector = fit(verify=True, poses="none", candidates=2, null_size=20)
    scores = detector.score(TRAIN[:3])
    for one in collect_evidence(detector, TRAIN[:3], scores):
        assert one.measured.decides == "verified"
        assert one.measured.verified == float(scores.verified[one.row])
        assert one.measured.copied_fraction == float(scores.copied_fraction[one.row])


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
    found, expected = collect_evidence(detector, files, scores), collect_evidence(detector, images, scores)
    assert sorted(files.read) == [1, 4, 5, 6]
    for one, other in zip(found, expected, strict=True):
        assert (one.source, other.source) == (f"folder/{one.row}.png", None)
        assert torch.equal(one.pictures.generated, other.pictures.generated)
        assert torch.equal(one.pictures.lncc_map.nan_to_num(-1), other.pictures.lncc_map.nan_to_num(-1))


def test_evidence_of_an_unfitted_detector_is_refused(mixed):
    with pytest.raises(StateError, match=r"call fit\(train"):
        collect_evidence(MemorizationDetector(encoder="pixels"), *mixed)


def test_images_that_cannot_be_looked_up_are_refused(detector, mixed):
    images, scores = mixed
    for container in (list(images[:, None]), iter(images)):
        with pytest.raises(DataError, match=r"needed images by position.*torch\.cat"):
            collect_evidence(detector, container, scores)


def test_other_images_than_those_scored_are_refused(detector, mixed):
    with pytest.raises(DataError, match=r"needed the images that were scored \(7\); 6 came"):
        collect_evidence(detector, mixed[0][:6], mixed[1])


def test_a_negative_number_is_refused(detector, mixed):
    with pytest.raises(DataError, match="at least 0, or None for all; -1 came"):
        collect_evidence(detector, *mixed, n=-1)


def test_flipped_copies_of_volumes_are_flagged_in_their_pose(of_volumes):
    detector, _, scores, poses, found = of_volumes
    assert scores.flagged.all()
    assert scores.pose == poses
    assert scores.match.tolist() == list(range(5))
    assert sorted(found) == list(range(5))
    assert not detector.score(volumes(4, 3)).flagged.all()
