"""MRI-CORE as it was trained."""

import re

import pytest
import torch
from encoder_contract import EncoderContract
from mri_core_files import DEPTH, HEADS, HIDDEN, LAYERS, WIDTH, backbone, chunked, features_of, save

from mi_callback.encoders import build_encoder
from mi_callback.encoders.mri_core import build_mri_core
from mi_callback.encoders.mri_core.vision_transformer import VisionTransformer
from mi_callback.errors import EncoderError


@pytest.fixture
def images(generator):
    return torch.rand(2, 3, 224, 224, generator=generator)


def huggingface(weights):
    """`ViTModel` with the same weights; its names differ between versions."""
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=WIDTH, intermediate_size=HIDDEN, num_hidden_layers=DEPTH, num_attention_heads=HEADS,
        layer_norm_eps=1e-6,
    )  # fmt: skip
    with torch.random.fork_rng():
        network = transformers.ViTModel(config, add_pooling_layer=False).eval()
    ours = {
        r"cls_token": "cls_token", r"position_embeddings": "pos_embed", r"patch_embeddings": "patch_embed.proj",
        r"(q_proj|query)\.": "q", r"(k_proj|key)\.": "k", r"(v_proj|value)\.": "v",
        r"(o_proj|attention\.output\.dense)\.": "attn.proj", r"layernorm_before": "norm1", r"layernorm_after": "norm2",
        r"(fc1|intermediate\.dense)\.": "mlp.fc1", r"(fc2|\d\.output\.dense)\.": "mlp.fc2", r"^layernorm": "norm",
    }  # fmt: skip
    state = {}
    for key in network.state_dict():
        name = next(name for pattern, name in ours.items() if re.search(pattern, key))
        block = f"blocks.{found[1]}." if (found := re.search(r"layers?\.(\d+)\.", key)) else ""
        end = "" if name in ("cls_token", "pos_embed") else "." + key.rsplit(".", 1)[1]
        if name in ("q", "k", "v"):
            state[key] = weights[f"{block}attn.qkv{end}"].chunk(3)["qkv".index(name)]
        else:
            state[key] = weights[block + name + end]
    network.load_state_dict(state)
    return network


# Definition


def test_blocks_return_what_they_do_in_another_implementation(weights, checkpoint, images):
    with torch.no_grad():
        hidden = huggingface(weights)(images, output_hidden_states=True).hidden_states
    for pooling, pooled in (("mean", lambda t: t[:, 1:].mean(dim=1)), ("cls", lambda t: t[:, 0])):
        found = features_of(checkpoint, images, pooling=pooling)
        assert list(found) == ["blocks.3", "blocks.7", "blocks.11"]
        for i in LAYERS:
            expected = pooled(hidden[i + 1])
            assert (found[f"blocks.{i}"] - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_published_sizes_make_vit_b():
    with torch.device("meta"):
        network = VisionTransformer()
    assert sum(p.numel() for p in network.parameters()) == 85_798_656
    assert network.pos_embed.shape == (1, 197, 768)


def test_slices_are_scaled_each_on_its_own_and_repeated_to_three_channels(checkpoint):
    encoder = build_mri_core(checkpoint)
    assert (encoder.size, encoder.channels, encoder.intensity) == ((224, 224), 3, "minmax")
    assert encoder.mean.tolist() == [0]
    assert encoder.std.tolist() == [1]


@pytest.mark.parametrize("key", ["pos_embed", "cls_token"])
def test_class_token_and_every_position_matter(key, weights, checkpoint, images, tmp_path):
    for position in (0, -1):
        changed = weights[key].clone()
        changed[:, position, 5] += 3
        other = save(tmp_path / "w.pth", weights | {key: changed})
        for pooling in ("mean", "cls"):
            before, after = (features_of(file, images, pooling=pooling) for file in (checkpoint, other))
            assert all((before[layer] - after[layer]).abs().max() > 1e-4 for layer in before)


# Promise


def test_the_catalogue_builds_it(checkpoint):
    encoder = build_encoder("mri_core", checkpoint=str(checkpoint), layers=[2])
    assert list(encoder.layers) == ["blocks.2"]
    assert encoder.card.licence == "Apache-2.0"
    assert "2506.12186" in encoder.card.citation


class TestNative(EncoderContract):
    names = ("mri_core",)

    def build(self, tmp_path):
        return build_encoder("mri_core", checkpoint=save(tmp_path / "w.pth", chunked(backbone(width=64, hidden=64))))


# Refusal


def test_no_file_is_refused_with_where_it_comes_from():
    with pytest.raises(EncoderError, match=r"needed a checkpoint.*MRI_CORE_vitb\.pth.*mazurowski-lab/mri_foundation"):
        build_mri_core()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": (3, 12, -1)}, r"needed layers out of 0 to 11.*\[12, -1\] came"),
        ({"layers": ()}, "at least one layer"),
        ({"mode": "sam"}, r"needed a mode out of \['native', 'reference_compat'\]; 'sam' came"),
        ({"mode": "reference_compat", "pooling": "cls"}, "needed pooling mean for mode reference_compat.*'cls' came"),
    ],
)
def test_options_that_do_not_exist_are_refused(options, message, checkpoint):
    with pytest.raises(EncoderError, match=message):
        build_mri_core(checkpoint, **options)
