"""Compiled networks: what they return is tapped, at any batch size, and no file runs that nobody vouched for."""

import copy
import io
import os
import zipfile
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from encoder_contract import EncoderContract
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from torch import nn

from mi_callback.encoders import build_encoder, entry
from mi_callback.encoders.checkpoints import file_digest, initialised
from mi_callback.encoders.compiled import build_exported, build_torchscript
from mi_callback.errors import EncoderError

SIZE = (12, 16)
MAPS = {"outputs.0": "BCHW", "outputs.1": "BC"}
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


class Net(nn.Module):
    """A map and a vector, as many networks return them."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3, stride=2)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 6)

    def forward(self, images):
        maps = torch.relu(self.norm(self.conv(images)))
        return maps, self.head(maps.mean((2, 3)))


Plain = Net


class Descriptor(Net):
    def forward(self, images):
        return self.head(torch.relu(self.conv(images)).mean((2, 3)))


class Volumes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 3, 3)

    def forward(self, images):
        return {"maps": self.conv(images)}


def network(kind=Net, *arguments) -> nn.Module:
    return initialised(lambda: kind(*arguments)).eval()


def script(path, kind=Net, *arguments, frozen=False):
    made = torch.jit.script(network(kind, *arguments))
    (torch.jit.freeze(made) if frozen else made).save(str(path))
    return path


def program(path, batch: int | None = 1, kind=Net, channels=1, size=SIZE):
    images = torch.rand(batch or 2, channels, *size, generator=torch.Generator().manual_seed(0))
    shapes = ({0: torch.export.Dim("batch")},) if batch is None else None
    made = network(kind, channels) if kind is not Volumes else network(kind)
    torch.export.save(torch.export.export(made, (images,), dynamic_shapes=shapes), str(path))
    return path


# Promise: the contract


class CompiledContract(EncoderContract):
    """The contract, of encoders of one file: compiling is not deterministic to the byte, and the digest counts."""

    path: Path

    def write(self, folder: Path) -> Path:
        raise NotImplementedError

    @pytest.fixture(scope="class", autouse=True)
    def _written(self, tmp_path_factory):
        type(self).path = self.write(tmp_path_factory.mktemp("compiled"))


class TestTorchScript(CompiledContract):
    names = ("torchscript",)

    def write(self, folder):
        return script(folder / "net.pt")

    def build(self, tmp_path):
        return build_encoder("torchscript", checkpoint=self.path, size=SIZE, layers=MAPS, trusted=True)


class TestFrozenTorchScript(CompiledContract):
    """Freezing makes the weights constants of the code."""

    def write(self, folder):
        return script(folder / "net.pt", frozen=True)

    def build(self, tmp_path):
        return build_torchscript(self.path, SIZE, MAPS, trusted=True)


class TestSSCD(CompiledContract):
    names = ("sscd",)

    def write(self, folder):
        return script(folder / "sscd.pt", Descriptor, 3)

    def build(self, tmp_path):
        return build_encoder("sscd", checkpoint=self.path, size=32, trusted=True)


class TestExported(CompiledContract):
    names = ("exported",)
    batch: ClassVar[int | None] = None

    def write(self, folder):
        return program(folder / "net.pt2", self.batch)

    def build(self, tmp_path):
        return build_encoder("exported", checkpoint=self.path, size=SIZE, layers=MAPS, trusted=True)

    def test_encoding_leaves_images_hooks_and_the_global_random_state_alone(self, encoder, images):
        """Exported modules check their inputs in hooks of their own: ours alone must be gone."""
        own = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in encoder.modules()]
        before, state = images.clone(), torch.get_rng_state()
        encoder(images)
        assert torch.equal(images, before)
        assert torch.equal(torch.get_rng_state(), state)
        assert [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in encoder.modules()] == own
        assert not any(module._forward_hooks for module in encoder.network.outputs)


class TestExportedForOneImage(TestExported):
    batch = 1


class TestExportedForTwoImages(TestExported):
    batch = 2


# Definition: features are what the network returns, pooled


@pytest.mark.parametrize("kind", ["script", "program"])
def test_features_are_what_the_network_returns(tmp_path, generator, kind):
    images = torch.rand(3, 1, *SIZE, generator=generator)
    if kind == "script":
        encoder = build_torchscript(script(tmp_path / "net.pt"), SIZE, MAPS, mean=0.2, std=2.0, trusted=True)
    else:
        encoder = build_exported(program(tmp_path / "net.pt2", 2), SIZE, MAPS, mean=0.2, std=2.0, trusted=True)
    with torch.no_grad():
        maps, vectors = network()((images - 0.2) / 2)
    found = encoder(images)
    assert torch.allclose(found["outputs.0"], maps.mean((2, 3)), atol=1e-6)
    assert torch.allclose(found["outputs.1"], vectors, atol=1e-6)
    assert encoder.with_windows(images)[1].keys() == {"outputs.0"}


def test_outputs_that_are_not_named_are_left_out(tmp_path, generator):
    encoder = build_torchscript(script(tmp_path / "net.pt"), SIZE, {"outputs.1": "BC"}, trusted=True)
    assert encoder(torch.rand(2, 1, *SIZE, generator=generator))["outputs.1"].shape == (2, 6)


def test_volumes_and_outputs_with_names(tmp_path, generator):
    images, layers = torch.rand(2, 1, 8, 9, 10, generator=generator), {"outputs.0": "BCDHW"}
    scripted = build_torchscript(script(tmp_path / "v.pt", Volumes), (8, 9, 10), layers, trusted=True)
    path = program(tmp_path / "v.pt2", 1, Volumes, size=(8, 9, 10))
    exported = build_exported(path, (8, 9, 10), layers, trusted=True)
    with torch.no_grad():
        expected = network(Volumes)(images)["maps"].mean((2, 3, 4))
    for encoder in (scripted, exported):
        assert torch.allclose(encoder(images)["outputs.0"], expected, atol=1e-6)
        assert encoder.with_windows(images)[1]["outputs.0"].shape == (2, 27, 3)


def test_sscd_takes_images_as_imagenet_has_them(tmp_path, generator):
    encoder = build_encoder("sscd", checkpoint=script(tmp_path / "sscd.pt", Descriptor, 3), trusted=True)
    assert (encoder.size, encoder.channels, encoder.name) == ((288, 288), 3, "sscd")
    images = torch.rand(1, 3, 288, 288, generator=generator)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = network(Descriptor, 3)((images - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1))
    assert torch.allclose(encoder(images)["outputs.0"], expected, atol=1e-6)
    assert encoder.card.licence == "MIT"


def test_a_program_for_two_images_fills_up_its_last_batch(tmp_path, generator):
    encoder = build_exported(program(tmp_path / "net.pt2", 2), SIZE, MAPS, trusted=True)
    images = torch.rand(5, 1, *SIZE, generator=generator)
    with torch.no_grad():
        expected = network()(images)[1]
    for n in (1, 2, 3, 5):
        found = encoder(images[:n])["outputs.1"]
        assert found.shape == (n, 6)
        assert torch.allclose(found, expected[:n], atol=1e-6)


@pytest.mark.parametrize("build", [build_torchscript, build_exported])
def test_a_compiled_network_keeps_its_number_type(tmp_path, build):
    path = script(tmp_path / "net.pt") if build is build_torchscript else program(tmp_path / "net.pt2", None)
    encoder = build(path, SIZE, MAPS, trusted=True)
    for converted in (copy.deepcopy(encoder).double(), copy.deepcopy(encoder).half()):
        assert {p.dtype for p in converted.parameters()} == {torch.float32}
        pairs = zip(converted.network.state_dict().values(), encoder.network.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_the_fingerprint_is_that_of_weights_and_code(tmp_path):
    class Net(Plain):  # of the same name: what TorchScript shows of a network is no more than that
        def forward(self, images):
            maps = torch.relu(self.norm(self.conv(images)) + 0.5)
            return maps, self.head(maps.mean((2, 3)))

    same = [build_torchscript(script(tmp_path / f"{i}.pt"), SIZE, MAPS, trusted=True) for i in (1, 1)]
    other = build_torchscript(script(tmp_path / "2.pt", Net), SIZE, MAPS, trusted=True)
    assert same[0].fingerprint() == same[1].fingerprint() != other.fingerprint()
    weights, others = same[0].network.network.state_dict(), other.network.network.state_dict()
    assert all(torch.equal(weights[key], others[key]) for key in weights)  # the code alone differs


# Refusal


@pytest.mark.parametrize("name", ["torchscript", "exported", "sscd"])
def test_a_program_that_nobody_vouched_for_is_refused(tmp_path, name):
    path = program(tmp_path / "net.pt2") if name == "exported" else script(tmp_path / "net.pt")
    loader = "torch.export.load" if name == "exported" else "torch.jit.load"
    with pytest.raises(EncoderError, match=rf"needed trusted=True: .* is a program, and {loader} is not safe"):
        build_encoder(name, checkpoint=path, size=SIZE)
    assert "trusted=True" in entry(name).needs


class Payload:
    def __init__(self, path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_the_loader_of_programs_does_run_what_a_file_pickled_and_without_trust_nothing_is_run(tmp_path):
    """Why trust is asked for: a weight that the archive declares as pickled is unpickled without limits."""
    path, trace = program(tmp_path / "net.pt2"), tmp_path / "trace"
    payload = io.BytesIO()
    torch.save(Payload(trace), payload)
    with zipfile.ZipFile(path) as archive:
        content = {item.filename: archive.read(item) for item in archive.infolist()}
    config = next(name for name in content if name.endswith("weights_config.json"))
    content[config] = content[config].replace(b'"use_pickle": false', b'"use_pickle": true', 1)
    weight = next(name for name in sorted(content) if name.endswith("weight_0"))
    content[weight] = payload.getvalue()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    with pytest.raises(EncoderError, match="needed trusted=True"):
        build_exported(path, SIZE, MAPS)
    assert not trace.exists()
    with pytest.raises(EncoderError):
        build_exported(path, SIZE, MAPS, trusted=True)
    assert trace.exists()


def test_scripts_do_reach_the_file_system(tmp_path):
    """Why trust is asked for: TorchScript has an operator that creates files."""

    class Writes(nn.Module):
        def __init__(self, path: str) -> None:
            super().__init__()
            self.path = path

        def forward(self, images):
            return images.mean((2, 3)) + torch.from_file(self.path, True, 4).sum()

    torch.jit.script(Writes(str(tmp_path / "trace"))).save(str(tmp_path / "net.pt"))
    encoder = build_torchscript(tmp_path / "net.pt", SIZE, trusted=True)
    assert not (tmp_path / "trace").exists()
    encoder(torch.rand(1, 1, *SIZE))
    assert (tmp_path / "trace").exists()


@pytest.mark.parametrize("build", [build_torchscript, build_exported])
@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "needed a checkpoint file; there is no"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs pointer"),
        (b"", r"needed a file of torch\.(jit|export)\.save"),
        (b"no archive at all", r"needed a file of torch\.(jit|export)\.save"),
        ("weights", r"needed a file of torch\.(jit|export)\.save"),
        ("truncated", r"needed a file of torch\.(jit|export)\.save"),
        ("the other", r"needed a file of torch\.(jit|export)\.save.*build_encoder\('(exported|torchscript)'\)"),
    ],
    ids=["missing", "lfs", "empty", "text", "weights", "truncated", "the other"],
)
def test_files_that_hold_no_such_program_are_refused(tmp_path, build, content, told):
    path, scripts = tmp_path / "net.pt2", build is build_torchscript
    if content == "weights":
        torch.save(network().state_dict(), path)
    elif content == "truncated":
        (script if scripts else program)(path)
        path.write_bytes(path.read_bytes()[:-400])
    elif content == "the other":
        (program if scripts else script)(path)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(EncoderError, match=told):
        build(path, SIZE, MAPS, trusted=True)


def test_another_digest_is_refused(tmp_path):
    path = script(tmp_path / "net.pt")
    assert build_torchscript(path, SIZE, MAPS, trusted=True, sha256=file_digest(path))
    with pytest.raises(EncoderError, match="with the SHA-256"):
        build_torchscript(path, SIZE, MAPS, trusted=True, sha256="0" * 64)


@pytest.mark.parametrize("layers", [{"network.conv": "BCHW"}, {"outputs.0": "BCHW", "head": "BC"}])
def test_submodules_of_compiled_networks_cannot_be_tapped(tmp_path, layers):
    with pytest.raises(EncoderError, match=r"needed layers outputs\.0, outputs\.1.*cannot be tapped"):
        build_torchscript(script(tmp_path / "net.pt"), SIZE, layers, trusted=True)


def test_an_output_that_is_not_there_is_refused(tmp_path):
    encoder = build_torchscript(script(tmp_path / "net.pt"), SIZE, {"outputs.2": "BC"}, trusted=True)
    with pytest.raises(EncoderError, match="needed 3 tensors from the network; it returns 2"):
        encoder(torch.rand(1, 1, *SIZE))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"size": (12, 12)}, r"= \(1, 12, 12\); it takes \(1, 12, 16\)"),
        ({"size": SIZE, "channels": 3}, r"= \(3, 12, 16\); it takes \(1, 12, 16\)"),
        ({"size": (8, *SIZE)}, r"= \(1, 8, 12, 16\); it takes \(1, 12, 16\)"),
    ],
)
def test_a_program_of_other_images_is_refused_when_it_is_built(tmp_path, options, told):
    with pytest.raises(EncoderError, match=told):
        build_exported(program(tmp_path / "net.pt2"), layers=MAPS, trusted=True, **options)


def test_a_program_of_several_inputs_is_refused(tmp_path):
    class Two(nn.Module):
        def forward(self, images, others):
            return images + others

    images = torch.rand(1, 1, *SIZE)
    torch.export.save(torch.export.export(Two(), (images, images)), str(tmp_path / "two.pt2"))
    with pytest.raises(EncoderError, match=r"needed a program of one tensor.*\['images', 'others'"):
        build_exported(tmp_path / "two.pt2", SIZE, MAPS, trusted=True)


# Configs


@pytest.mark.parametrize("name", ["torchscript", "sscd"])
def test_configs_instantiate_with_overrides(tmp_path, name):
    path = script(tmp_path / "net.pt", Descriptor, 3 if name == "sscd" else 1)
    overrides = [
        f"+mi_callback/encoder@encoder={name}",
        f"encoder.checkpoint={path}",
        "encoder.trusted=true",
        "encoder.size=[24,32]",
    ]
    with initialize_config_module(config_module="mi_callback.conf", version_base="1.3"):
        config = compose(overrides=overrides)
    encoder = instantiate(config.encoder)
    assert (encoder.size, encoder.name) == ((24, 32), name)
    assert encoder(torch.rand(2, encoder.channels, 24, 32))["outputs.0"].shape == (2, 6)
