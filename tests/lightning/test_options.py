"""Options are refused when the callback is made: wrong kinds, unknown names, and what would have no effect."""

import numpy as np
import pytest
import torch
from watching import HELD_OUT, TRAIN, options

from mi_callback import MemorizationCallback, MemorizationDetector
from mi_callback.errors import MemorizationError, OptionError


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"n_samples": 2.5}, "needed n_samples as a whole number; 2.5 came"),
        ({"n_samples": True}, "needed n_samples as a whole number; True came"),
        ({"n_samples": "64"}, "needed n_samples as a whole number; '64' came"),
        ({"n_samples": 0}, "needed n_samples of at least 1; 0 came"),
        ({"every_n_validations": 1.0}, "needed every_n_validations as a whole number"),
        ({"sample_batch_size": None}, "needed sample_batch_size as a whole number"),
        ({"power": -1}, "needed power of at least 0"),
        ({"power": True}, "needed power as a whole number"),
        ({"seed": 1.5}, "needed seed as a whole number; 1.5 came"),
        ({"seed": -1}, "needed seed of at least 0"),
        ({"set_scores": "yes"}, "needed set_scores True or False; 'yes' came"),
        ({"log_images": 1}, "needed log_images True or False"),
        ({"log_subjects": None}, "needed log_subjects True or False"),
        ({"on_error": "ignore"}, "needed on_error out of"),
        ({"sampler": 3}, "needed a sampler as a function .* 3 came"),
        ({"sampler": ""}, "needed a sampler"),
        ({"subject_key": 1.5}, "needed subject_key as a key, a position"),
        ({"image_key": True}, "needed image_key as a key, a position"),
        ({"image_key": ["image"]}, "needed image_key as a key"),
        ({"cache": 3}, "needed cache as the path of a file"),
        ({"cache": "/"}, "needed cache as a file, .*; / holds other things. Name a file in it"),
        ({"detector": "bundled"}, "needed a MemorizationDetector or a mapping of its options; str came"),
        ({"detector": {"alpa": 0.1}}, r"it has no 'alpa' \(alpha\?\)"),
        ({"detector": {"alpha": 2}}, "needed alpha between 0 and 1; 2 came"),
        ({"detector": {"null": "helt_out"}}, "needed null out of"),
        ({"detector": {"candidates": 2.5}}, "needed candidates as a whole number"),
        ({"detector": {"seed": 0.5}}, "needed seed as a whole number"),
        ({"detector": {"verify": "no"}}, "needed verify True or False"),
        ({"detector": {"device": "cuda:99"}}, "needed a device of this machine"),
        ({"detector": {"null": "cross_fit"}, "held_out": HELD_OUT}, r"held_out=… has none beside null='cross_fit'"),
    ],
    ids=str,
)
def test_what_is_wrong_is_refused_with_what_was_needed(option: dict, message: str):
    with pytest.raises(MemorizationError, match=message):
        MemorizationCallback(**option)


@pytest.mark.parametrize("option", [{"train": TRAIN}, {"held_out": HELD_OUT}, {"cache": "state"}], ids=str)
def test_data_beside_a_fitted_detector_are_refused(option: dict):
    detector = MemorizationDetector(**options()).fit(TRAIN, held_out=HELD_OUT)
    with pytest.raises(OptionError, match=r"has none beside a detector that is fitted already. Leave one of them out"):
        MemorizationCallback(detector=detector, **option)


def test_held_out_images_beside_a_detector_that_uses_none_are_refused():
    detector = MemorizationDetector(**options(null="train_halves"))
    with pytest.raises(OptionError, match="held_out=… has none beside null='train_halves'"):
        MemorizationCallback(detector=detector, held_out=HELD_OUT)


def test_whole_numbers_of_other_libraries_and_keys_of_every_kind_are_taken():
    watch = MemorizationCallback(
        n_samples=np.int64(7), seed=torch.tensor(3), subject_key=1, image_key=0, sampler="generator.sample"
    )
    assert (watch.n_samples, watch.seed, watch.subject_key, watch.image_key) == (7, 3, 1, 0)
    assert type(watch.n_samples) is int


def test_making_a_callback_draws_no_random_number():
    before = torch.get_rng_state()
    MemorizationCallback(detector={"alpha": 0.1})
    assert torch.equal(before, torch.get_rng_state())
