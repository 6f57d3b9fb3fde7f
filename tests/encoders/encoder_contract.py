"""What every encoder promises, as tests: a family's test module subclasses `EncoderContract` and says how one is built.

class TestMine(EncoderContract):
    names = ("mine",)                      # entries of the catalogue that this covers
    def build(self, tmp_path): ...         # the same encoder every time, small and without downloads
"""

import copy
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from mi_callback import encoders
from mi_callback.encoders import Encoder, HookedEncoder
from mi_callback.retrieval.extraction import extract

TOLERANCE = 1e-4


class EncoderContract:
    names: ClassVar[tuple[str, ...]] = ()

    def build(self, tmp_path: Path) -> Encoder:
        raise NotImplementedError

    @pytest.fixture(scope="class")
    def encoder(self, tmp_path_factory) -> Encoder:
        return self.build(tmp_path_factory.mktemp("weights"))

    @pytest.fixture
    def images(self, encoder, generator) -> torch.Tensor:
        return torch.rand(3, encoder.channels, *encoder.size, generator=generator)

    def test_it_satisfies_the_protocol_and_declares_itself(self, encoder):
        assert isinstance(encoder, Encoder)
        assert len(encoder.size) in (2, 3)
        assert encoder.channels >= 1
        assert encoder.layers

    def test_licence_and_citation_are_told(self):
        for name in self.names:
            card = encoders.entry(name).card
            assert "not stated" not in (card.licence, card.citation, card.source)

    def test_one_finite_float32_vector_per_image_and_layer_in_order(self, encoder, images):
        found = encoder(images)
        assert list(found) == list(encoder.layers)
        for features in found.values():
            assert features.shape[0] == 3
            assert features.ndim == 2
            assert features.dtype == torch.float32
            assert features.isfinite().all()
            assert not features.requires_grad

    def test_other_images_have_other_features(self, encoder, images):
        for features in encoder(images).values():
            assert (features[0] - features[1]).abs().max() > 1e-6

    def test_the_same_images_have_the_same_features(self, encoder, images):
        first, again = encoder(images), encoder(images.clone())
        assert all(torch.equal(first[layer], again[layer]) for layer in first)

    def test_a_batch_is_encoded_as_its_images_one_by_one(self, encoder, images):
        together = encoder(images)
        for i in range(3):
            for layer, features in encoder(images[i : i + 1]).items():
                scale = together[layer].abs().max()
                assert (features[0] - together[layer][i]).abs().max() <= TOLERANCE * scale

    def test_encoding_leaves_images_hooks_and_the_global_random_state_alone(self, encoder, images):
        def hooks():
            # Those that a network brings itself stay: transformers collects hidden states with some.
            return [len(m._forward_hooks) for m in encoder.modules()] if isinstance(encoder, torch.nn.Module) else []

        before, state, hooked = images.clone(), torch.get_rng_state(), hooks()
        encoder(images)
        assert torch.equal(images, before)
        assert torch.equal(torch.get_rng_state(), state)
        assert hooks() == hooked

    def test_building_leaves_the_global_random_state_alone(self, tmp_path):
        self.build(tmp_path)  # what is imported on the way may draw once
        state = torch.get_rng_state()
        self.build(tmp_path)
        assert torch.equal(torch.get_rng_state(), state)

    def test_the_fingerprint_is_that_of_the_weights(self, encoder, tmp_path):
        assert self.build(tmp_path).fingerprint() == encoder.fingerprint()
        if not isinstance(encoder, torch.nn.Module) or not list(encoder.parameters()):
            return
        changed = copy.deepcopy(encoder)
        with torch.no_grad():
            next(iter(changed.parameters())).flatten()[0] += 1
        assert changed.fingerprint() != encoder.fingerprint()

    def test_double_precision_gives_the_same_features(self, encoder, images):
        if not isinstance(encoder, torch.nn.Module):
            pytest.skip("no torch module: nothing to convert")
        expected = encoder(images)
        for layer, features in copy.deepcopy(encoder).double()(images).items():
            assert features.dtype == torch.float32
            assert (features - expected[layer]).abs().max() <= 10 * TOLERANCE * expected[layer].abs().max()

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
    def test_it_moves_to_a_gpu(self, encoder, images):
        expected = encoder(images)
        for layer, features in copy.deepcopy(encoder).to("cuda")(images.to("cuda")).items():
            assert features.is_cuda
            assert (features.cpu() - expected[layer]).abs().max() <= 100 * TOLERANCE * expected[layer].abs().max()

    def test_gradients_stay_off_and_eval_mode_stays_on(self, encoder):
        if isinstance(encoder, HookedEncoder):
            encoder.train()
            assert not any(module.training for module in encoder.modules())
            assert not any(parameter.requires_grad for parameter in encoder.parameters())

    def test_images_of_any_size_and_range_go_through_the_line(self, encoder, generator):
        sides = [17, 23, 29][: len(encoder.size)]
        low, high = encoder.intensity if isinstance(encoder.intensity, tuple) else (-300.0, 700.0)
        raw = torch.rand(2, 1, *sides, generator=generator) * (high - low) + low
        found = extract(raw, encoder)
        assert list(found.layers) == list(encoder.layers)
        assert all(features.shape[:2] == (1, 2) for features in found.layers.values())
