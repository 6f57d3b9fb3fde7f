"""MRI-CORE from a file laid out as the published one, with random weights and a narrower network."""

import math
import re

import pytest
import torch
import torch.nn.functional as F
from encoder_contract import EncoderContract
from safetensors.torch import save_file

from mi_callback.encoders import build_encoder
from mi_callback.encoders.mri_core import build_mri_core
from mi_callback.encoders.mri_core.paper_code import RowProfiles
from mi_callback.encoders.mri_core.vision_transformer import VisionTransformer
from mi_callback.errors import EncoderError

WIDTH, HIDDEN, DEPTH, HEADS = 128, 192, 12, 2
LAYERS = (3, 7, 11)


def backbone(scaled: bool = False, width: int = WIDTH, hidden: int = HIDDEN, depth: int = DEPTH):
    """The published keys below `teacher.backbone.`, blocks not in chunks."""
    generator = torch.Generator().manual_seed(3)

    def random(*shape: int, around: float = 0.0, scale: float = 0.2):
        return around + scale * torch.randn(*shape, generator=generator)

    weights = {
        "cls_token": random(1, 1, width),
        "pos_embed": random(1, 197, width),
        "mask_token": random(1, width),
        "patch_embed.proj.weight": random(width, 3, 16, 16, scale=0.05),
        "patch_embed.proj.bias": random(width),
    }
    for i in range(depth):
        for name, size_out, size_in in [
            ("attn.qkv", 3 * width, width), ("attn.proj", width, width),
            ("mlp.fc1", hidden, width), ("mlp.fc2", width, hidden),
        ]:  # fmt: skip
            weights[f"blocks.{i}.{name}.weight"] = random(size_out, size_in, scale=1.5 / math.sqrt(size_in))
            weights[f"blocks.{i}.{name}.bias"] = random(size_out)
        for norm in ("norm1", "norm2"):
            weights[f"blocks.{i}.{norm}.weight"] = random(width, around=1.0)
            weights[f"blocks.{i}.{norm}.bias"] = random(width)
        if scaled:
            weights |= {f"blocks.{i}.ls{k}.gamma": random(width, around=0.5) for k in (1, 2)}
    return weights | {"norm.weight": random(width, around=1.0), "norm.bias": random(width)}


def chunked(weights):
    """Blocks as DINOv2 saves them: four chunks of three, numbered through."""
    return {
        re.sub(r"^blocks\.(\d+)\.", lambda found: f"blocks.{int(found[1]) // 3}.{found[1]}.", key): value
        for key, value in weights.items()
    }


def save(path, weights):
    """As the published file: the teacher's backbone beside its head."""
    teacher = {f"backbone.{key}": value for key, value in weights.items()}
    torch.save({"teacher": teacher | {"dino_head.mlp.0.weight": torch.zeros(4, 4)}}, path)
    return path


@pytest.fixture(scope="module")
def weights():
    return backbone()


@pytest.fixture(scope="module")
def checkpoint(weights, tmp_path_factory):
    return save(tmp_path_factory.mktemp("weights") / "MRI_CORE_vitb.pth", chunked(weights))


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


def features_of(checkpoint, images, **options):
    return build_mri_core(checkpoint, **options)(images)


# Definition: native


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


def test_layer_scale_is_folded_into_the_maps_before_it(images, tmp_path):
    weights = backbone(scaled=True)
    found = features_of(save(tmp_path / "w.pth", chunked(weights)), images, layers=(0, 11))

    def norm(x, key):
        return F.layer_norm(x, (WIDTH,), weights[f"{key}.weight"], weights[f"{key}.bias"], eps=1e-6)

    def linear(x, key):
        return F.linear(x, weights[f"{key}.weight"], weights[f"{key}.bias"])

    patches = F.conv2d(images, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], stride=16)
    x = torch.cat([weights["cls_token"].expand(2, -1, -1), patches.flatten(2).mT], dim=1) + weights["pos_embed"]
    for i in range(DEPTH):
        block = f"blocks.{i}"
        q, k, v = linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv").chunk(3, dim=2)
        heads = []
        for h in range(HEADS):
            part = slice(64 * h, 64 * h + 64)
            heads.append((q[..., part] @ k[..., part].mT / 8).softmax(dim=-1) @ v[..., part])
        x = x + weights[f"{block}.ls1.gamma"] * linear(torch.cat(heads, dim=2), f"{block}.attn.proj")
        inner = F.gelu(linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1"))
        x = x + weights[f"{block}.ls2.gamma"] * linear(inner, f"{block}.mlp.fc2")
        if block in found:
            expected = x[:, 1:].mean(dim=1)
            assert (found[block] - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_blocks_without_chunks_and_a_bare_or_half_precision_file_are_the_same_encoder(weights, checkpoint, tmp_path):
    published = build_mri_core(checkpoint).fingerprint()
    assert build_mri_core(save(tmp_path / "plain.pth", weights)).fingerprint() == published
    save_file(chunked(weights), tmp_path / "bare.safetensors")
    assert build_mri_core(tmp_path / "bare.safetensors").fingerprint() == published
    whole = {f"teacher.backbone.{k}": v for k, v in chunked(weights).items()}
    whole |= {"student.backbone.cls_token": torch.zeros(1), "teacher.dino_head.last_layer.weight": torch.zeros(1)}
    torch.save({"model": whole, "optimizer": {}, "iteration": 3}, tmp_path / "training.pth")
    assert build_mri_core(tmp_path / "training.pth").fingerprint() == published
    half = build_mri_core(save(tmp_path / "half.pth", {key: value.half() for key, value in weights.items()}))
    assert {p.dtype for p in half.parameters()} == {torch.float32}


def test_the_catalogue_builds_it(checkpoint):
    encoder = build_encoder("mri_core", checkpoint=str(checkpoint), layers=[2])
    assert list(encoder.layers) == ["blocks.2"]
    assert encoder.card.licence == "Apache-2.0"
    assert "2506.12186" in encoder.card.citation


# Definition: the paper's public code


def row_profiles(weights, images):
    """Token by token in windows of 14, as Segment Anything's encoder walks over a map padded with zeros."""

    def norm(x, key):
        return F.layer_norm(x, (WIDTH,), weights[f"{key}.weight"], weights[f"{key}.bias"], eps=1e-6)

    def linear(x, key):
        return F.linear(x, weights[f"{key}.weight"], weights[f"{key}.bias"])

    patches = F.conv2d(images, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], stride=16)
    profiles = {}
    for image, channels in enumerate(patches):
        tokens = {(y, x): channels[:, y, x] for y in range(15) for x in range(15)}
        for i in range(DEPTH):
            block = f"blocks.{i}"
            side = 15 if i in (2, 5, 8, 11) else 14
            added = {}
            for top in range(0, 15, side):
                for left in range(0, 15, side):
                    places = [(y, x) for y in range(top, top + side) for x in range(left, left + side)]
                    inside = torch.stack([tokens.get(place, torch.zeros(WIDTH)) for place in places])
                    qkv = linear(norm(inside, f"{block}.norm1"), f"{block}.attn.qkv")
                    heads = []
                    for h in range(HEADS):
                        q, k, v = (qkv[:, part * WIDTH + 64 * h :][:, :64] for part in range(3))
                        heads.append(torch.softmax(q @ k.T / math.sqrt(64), dim=1) @ v)
                    added |= zip(places, linear(torch.cat(heads, dim=1), f"{block}.attn.proj"), strict=True)
            x = torch.stack([token + added[place] for place, token in tokens.items()])
            x = x + linear(F.gelu(linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1")), f"{block}.mlp.fc2")
            tokens = dict(zip(tokens, x, strict=True))
            rows = [torch.stack([tokens[y, x] for x in range(15)]).mean() for y in range(15)]
            profiles[image, i] = torch.stack(rows)
    return profiles


def test_the_reference_is_row_profiles_of_windowed_blocks_without_positions(weights, checkpoint, generator):
    images = torch.rand(2, 3, 240, 240, generator=generator)
    found = features_of(checkpoint, images, mode="reference_compat", layers=range(DEPTH))
    assert list(found) == [f"profiles.{i}" for i in range(DEPTH)]
    for (image, i), expected in row_profiles(weights, images).items():
        assert found[f"profiles.{i}"].shape == (2, 15)
        assert (found[f"profiles.{i}"][image] - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_the_reference_drops_what_the_papers_loader_drops(weights, checkpoint, generator, tmp_path):
    images = torch.rand(1, 3, 240, 240, generator=generator)
    changed = {key: value + 1 for key, value in weights.items() if key in ("pos_embed", "cls_token", "norm.bias")}
    scales = {f"blocks.{i}.ls1.gamma": torch.rand(WIDTH, generator=generator) for i in range(DEPTH)}
    other = save(tmp_path / "w.pth", weights | changed | scales)
    before, after = (features_of(file, images, mode="reference_compat") for file in (checkpoint, other))
    assert all(torch.equal(before[layer], after[layer]) for layer in before)


def test_published_sizes_make_the_image_encoder_of_segment_anything_without_positions_and_neck():
    with torch.device("meta"):
        network = RowProfiles()
    assert sum(p.numel() for p in network.parameters()) == 85_798_656 - 197 * 768 - 768 - 2 * 768
    assert [block.window for block in network.blocks] == [14, 14, 15] * 4


def test_the_reference_takes_240_pixels_and_has_no_regions(checkpoint, generator):
    encoder = build_mri_core(checkpoint, mode="reference_compat")
    assert (encoder.size, encoder.channels, encoder.intensity) == ((240, 240), 3, "minmax")
    assert not encoder.with_windows(torch.rand(1, 3, 240, 240, generator=generator))[1]
    assert encoder.fingerprint() != build_mri_core(checkpoint).fingerprint()


# Refusal


def test_no_file_is_refused_with_where_it_comes_from():
    with pytest.raises(EncoderError, match=r"needed a checkpoint.*MRI_CORE_vitb\.pth.*mazurowski-lab/mri_foundation"):
        build_mri_core()


@pytest.mark.parametrize("mode", ["native", "reference_compat"])
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("missing", r"missing \['blocks\.5\.attn\.qkv\.weight'\]"),
        ("unknown", r"unknown \['blocks\.5\.attn\.rel_pos_h'\]"),
        ("shape", r"another shape \['blocks\.5\.attn\.qkv\.weight \(128, 128\) for \(384, 128\)'\]"),
        ("empty", r"missing .* and \d+ more; unknown \['head\.weight'\]"),
    ],
)
def test_other_weights_are_refused_with_the_keys_at_fault(fault, message, mode, weights, tmp_path):
    key = "blocks.5.attn.qkv.weight"
    other = {
        "missing": {k: v for k, v in weights.items() if k != key},
        "unknown": weights | {"blocks.5.attn.rel_pos_h": torch.zeros(27, 64)},
        "shape": weights | {key: weights[key][:WIDTH].clone()},
        "empty": {"head.weight": torch.zeros(2, 2)},
    }[fault]
    with pytest.raises(EncoderError, match=rf"{message}.*Expected: MRI_CORE_vitb\.pth, from"):
        build_mri_core(save(tmp_path / "w.pth", chunked(other)), mode=mode)


@pytest.mark.parametrize("key", ["cls_token", "pos_embed", "norm.weight", "patch_embed.proj.weight"])
def test_a_backbone_without_its_ends_is_refused(key, weights, tmp_path):
    other = {k: v for k, v in weights.items() if k != key}
    with pytest.raises(EncoderError, match=rf"missing \[.*'{re.escape(key)}'"):
        build_mri_core(save(tmp_path / "w.pth", other))


def test_layer_scale_that_scales_nothing_is_refused(weights, tmp_path):
    gamma = torch.ones(WIDTH)
    with pytest.raises(EncoderError, match=r"unknown \['blocks\.5\.ls3\.gamma', 'norm\.ls1\.gamma'\]"):
        build_mri_core(save(tmp_path / "w.pth", weights | {"blocks.5.ls3.gamma": gamma, "norm.ls1.gamma": gamma}))
    with pytest.raises(EncoderError, match=r"needed blocks\.5\.ls1\.gamma of the shape"):
        build_mri_core(save(tmp_path / "w.pth", weights | {"blocks.5.ls1.gamma": gamma[:1].clone()}))


def test_chunks_that_each_count_from_0_are_refused(weights, tmp_path):
    other = chunked(weights) | {"blocks.1.0.norm1.bias": torch.zeros(WIDTH)}
    with pytest.raises(EncoderError, match="needed blocks numbered through all chunks"):
        build_mri_core(save(tmp_path / "w.pth", other))


@pytest.mark.parametrize("change", [{"width": 100}, {"positions": 198}, {"positions": 1}])
def test_sizes_that_are_no_vit_are_refused(change, weights, tmp_path):
    other = dict(weights)
    if "width" in change:
        other["patch_embed.proj.weight"] = torch.zeros(100, 3, 16, 16)
    else:
        other["pos_embed"] = torch.zeros(1, change["positions"], WIDTH)
    with pytest.raises(EncoderError, match="needed a width that is a multiple of 64 and positions of"):
        build_mri_core(save(tmp_path / "w.pth", other))


def test_another_digest_is_refused_and_the_right_one_is_not(checkpoint):
    import hashlib

    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    build_mri_core(checkpoint, sha256=digest)
    with pytest.raises(EncoderError, match=rf"SHA-256 {'0' * 64}; it has {digest}.*Expected: MRI_CORE_vitb\.pth"):
        build_mri_core(checkpoint, sha256="0" * 64)


class Payload:
    def __reduce__(self):
        return (pytest.fail, ("the pickle was run",))


def test_a_file_that_needs_a_pickle_is_refused_and_not_run(weights, tmp_path):
    torch.save({"teacher": weights, "config": Payload()}, tmp_path / "w.pth")
    with pytest.raises(EncoderError, match=r"needed a file of nothing but tensors.*Expected: MRI_CORE_vitb\.pth"):
        build_mri_core(tmp_path / "w.pth")


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(EncoderError, match=r"there is no .*none\.pth.*Expected: MRI_CORE_vitb\.pth"):
        build_mri_core(tmp_path / "none.pth")


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


# Promise: the contract that every encoder keeps


class TestNative(EncoderContract):
    names = ("mri_core",)

    def build(self, tmp_path):
        return build_encoder("mri_core", checkpoint=save(tmp_path / "w.pth", chunked(backbone())))


class TestReference(EncoderContract):
    names = ("mri_core",)

    def build(self, tmp_path):
        file = save(tmp_path / "w.pth", chunked(backbone()))
        return build_encoder("mri_core", checkpoint=file, mode="reference_compat")
