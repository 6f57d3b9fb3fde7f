"""The copy descriptor: unit vectors that depend on nothing but the image, and hardly on what was done to it."""

import pytest
import torch
from factories import texture
from safetensors.torch import save_file

from mi_callback.encoders.descriptor import AT_ONCE, DIMENSIONS, SIDE, DescriptorNet, copy_descriptor, describe
from mi_callback.errors import EncoderError
from mi_callback.images.perturbations import affine, invert, remap
from mi_callback.images.poses import POSES, descriptor_poses, orbit
from mi_callback.images.resizing import resize
from mi_callback.images.thumbnails import as_images, make_thumbnails


@pytest.fixture(scope="module")
def thumbnails() -> torch.Tensor:
    return make_thumbnails(texture(12, side=96), 96)


# Definition


def test_an_image_is_described_alone_and_in_every_pose(thumbnails):
    network = copy_descriptor()
    found = describe(network, thumbnails, ["identity", "rotation_90"])
    assert found.shape == (2, 12, DIMENSIONS)
    assert torch.allclose(found.norm(dim=2), torch.ones(2, 12), atol=1e-6)
    for position, pose in enumerate(("identity", "rotation_90")):
        for i, thumbnail in enumerate(thumbnails):
            image = POSES[pose](resize(as_images(thumbnail[None]), (SIDE, SIDE)))
            assert torch.allclose(found[position, i], network(image)[0], atol=1e-5)


def test_how_many_are_described_at_a_time_changes_nothing(thumbnails):
    many = thumbnails.repeat(AT_ONCE // 12 + 2, 1, 1)
    found = describe(copy_descriptor(), many, ["identity"])[0]
    assert torch.allclose(found, found[:12].repeat(AT_ONCE // 12 + 2, 1), atol=1e-5)


def test_norms_that_are_folded_into_convolutions_change_nothing(tmp_path, thumbnails):
    torch.manual_seed(0)
    network = DescriptorNet()
    images = resize(as_images(thumbnails), (SIDE, SIDE))
    network.train()(images)  # statistics that are not those at the start
    save_file(network.state_dict(), tmp_path / "other.safetensors")
    folded = copy_descriptor(tmp_path / "other.safetensors")
    assert torch.allclose(folded(images), network.eval()(images), atol=1e-5)


def test_poses_of_the_descriptor_are_those_of_the_orbit_and_a_quarter_turn_on():
    assert descriptor_poses(["identity"]) == ["identity", "rotation_270"]
    flips = descriptor_poses(orbit("flips"))
    assert flips[:4] == orbit("flips")
    assert set(flips) == set(descriptor_poses(orbit("dihedral"))) == set(orbit("dihedral"))


def test_loading_leaves_the_global_seed_alone():
    state = torch.get_rng_state()
    copy_descriptor.__wrapped__()
    assert torch.equal(torch.get_rng_state(), state)


# Promise


def test_inverted_contrast_changes_nothing(thumbnails):
    inverted = describe(copy_descriptor(), 255 - thumbnails, ["identity"])
    assert torch.allclose(inverted, describe(copy_descriptor(), thumbnails, ["identity"]), atol=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: affine(x, rotation=20.0, scale_x=1.2, scale_y=1.2, shift_x=0.05),
        lambda x: affine(invert(x), rotation=-10.0),
        lambda x: remap(x, torch.Generator().manual_seed(2)),
    ],
)
def test_a_changed_copy_is_nearest_to_its_original(thumbnails, change):
    copies = make_thumbnails(change(as_images(thumbnails)), 96)
    known, found = (describe(copy_descriptor(), some, ["identity"])[0] for some in (thumbnails, copies))
    nearest = ((found - known.mean(0)) @ (known - known.mean(0)).T).argmax(dim=1)
    assert (nearest == torch.arange(12)).float().mean() > 0.8


# Refusal


def test_weights_of_another_network_are_refused(tmp_path):
    save_file({"head.weight": torch.zeros(3, 3)}, tmp_path / "other.safetensors")
    with pytest.raises(EncoderError, match=r"other\.safetensors"):
        copy_descriptor(tmp_path / "other.safetensors")
    with pytest.raises(EncoderError, match="there is no"):
        copy_descriptor(tmp_path / "missing.safetensors")
