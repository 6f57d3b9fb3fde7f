"""Hidden states of a backbone as layers of an encoder."""

import pytest
import torch
from encoder_contract import EncoderContract
from transformers_models import BLOCKS, CONFIGS, reference, saved

from mi_callback.encoders import build_encoder
from mi_callback.encoders.huggingface import build_huggingface
from mi_callback.errors import EncoderError

transformers = pytest.importorskip("transformers")


# Promise


def test_layers_are_three_evenly_spread_of_which_the_last_is_one(folders, tmp_path):
    blocks = {**BLOCKS, "num_hidden_layers": 12}
    twelve = saved(transformers.ViTConfig(**blocks, image_size=16, patch_size=8), tmp_path)
    assert list(build_huggingface(twelve).layers) == ["hidden.4", "hidden.8", "hidden.12"]
    assert list(build_huggingface(folders("dinov3_convnext")).layers) == ["hidden.1", "hidden.3", "hidden.4"]
    assert list(build_huggingface(folders("pvt_v2")).layers) == ["hidden.1", "hidden.2", "hidden.3"]


def test_layers_count_from_the_end_too_and_keep_their_order(folders, images):
    encoder = build_huggingface(folders("vit"), layers=[-1, 0, 2])
    assert list(encoder.layers) == list(encoder(images)) == ["hidden.4", "hidden.0", "hidden.2"]


def test_the_cls_token_is_the_first(folders, images):
    encoder = build_huggingface(folders("dinov2_with_registers"), layers=[3], pooling="cls")
    states = reference(folders("dinov2_with_registers"), images).hidden_states
    assert torch.allclose(encoder(images)["hidden.3"], states[3][:, 0], atol=1e-5)


@pytest.mark.parametrize("kind", ["siglip_vision_model", "convnext"])
def test_a_cls_token_that_a_family_has_not_is_refused_when_it_is_built(kind, folders):
    with pytest.raises(EncoderError, match="needed a BNC layer with a CLS token"):
        build_huggingface(folders(kind), pooling="cls")


def test_a_masked_autoencoder_sees_every_patch_in_order_and_draws_nothing(folders, images):
    encoder = build_huggingface(folders("vit_mae"))
    state = torch.get_rng_state()
    first = encoder(images)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    assert all(torch.equal(first[layer], again) for layer, again in encoder(images).items())
    assert all(output.shape == (2, 65, 32) for output in encoder._outputs(images).values())


@pytest.mark.parametrize("layers", [[5], [-6], [1, 1], [4, -1], []], ids=str)
def test_layers_that_are_not_there_are_refused(layers, folders):
    with pytest.raises(EncoderError, match=r"needed different positions in the 5 hidden states of this vit, -5 to 4"):
        build_huggingface(folders("vit"), layers=layers)


# Promise: the contract


class Saved(EncoderContract):
    kind = ""

    def build(self, tmp_path):
        folder = tmp_path / self.kind
        return build_encoder("huggingface", model=folder if folder.exists() else saved(CONFIGS[self.kind](), folder))


class TestDinov2WithRegisters(Saved):
    names = ("huggingface", "rad_dino", "dinov2", "dinov3", "curia", "medsiglip", "midnight", "phikon_v2")
    kind = "dinov2_with_registers"


class TestVit(Saved):
    kind = "vit"


class TestVitMae(Saved):
    kind = "vit_mae"


class TestSiglip(Saved):
    kind = "siglip_vision_model"


class TestConvnext(Saved):
    kind = "convnext"


class TestSwin(Saved):
    kind = "swin"


class TestHiera(Saved):
    kind = "hiera"


class TestDinov3(Saved):
    kind = "dinov3_vit"
