"""Whatever a sampler returns becomes images, with the same pixels."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from mi_callback.errors import SamplerError
from mi_callback.lightning.drawn_images import as_images

PIXELS = torch.arange(3 * 8 * 6, dtype=torch.uint8).view(3, 1, 8, 6)
COLOUR = torch.arange(3 * 3 * 8 * 6, dtype=torch.uint8).view(3, 3, 8, 6)


def pictures(images, mode="L"):
    if images.shape[1] == 1:
        return [Image.fromarray(image[0].numpy()).convert(mode) for image in images]
    return [Image.fromarray(np.ascontiguousarray(image.movedim(0, -1).numpy())) for image in images]


@pytest.mark.parametrize(
    "drawn",
    [
        PIXELS,
        PIXELS.numpy(),
        PIXELS.movedim(1, -1).numpy(),
        list(PIXELS),
        tuple(PIXELS),
        list(PIXELS.numpy()),
        list(PIXELS[:, 0].numpy()),
        list(PIXELS.movedim(1, -1).numpy()),
        pictures(PIXELS),
        pictures(PIXELS, "RGB"),
        pictures(PIXELS, "RGBA"),
        pictures(PIXELS, "P"),
        SimpleNamespace(images=pictures(PIXELS)),
        SimpleNamespace(images=PIXELS.movedim(1, -1).numpy()),
    ],
    ids=range(14),
)
def test_grey_images_in_any_form(drawn):
    assert torch.equal(as_images(drawn), PIXELS)


@pytest.mark.parametrize("drawn", [COLOUR, COLOUR.movedim(1, -1).numpy(), list(COLOUR), pictures(COLOUR)], ids=range(4))
def test_colour_images_keep_their_channels(drawn):
    assert torch.equal(as_images(drawn), COLOUR)


def test_sixteen_bits_and_floats_keep_their_values():
    deep = (PIXELS[:, 0].to(torch.int32) * 255).numpy().astype(np.uint16)
    assert torch.equal(as_images([Image.fromarray(image) for image in deep])[:, 0].int(), torch.from_numpy(deep).int())
    assert torch.equal(as_images(PIXELS.double().numpy()), PIXELS.double())


def test_volumes_pass_as_they_are():
    volumes = torch.rand(2, 1, 4, 6, 3)
    assert torch.equal(as_images(volumes.numpy()), volumes)
    assert torch.equal(as_images(list(volumes)), volumes)


@pytest.mark.parametrize("drawn", [None, [], "ab", 3, ["a"], [None], {"a": PIXELS}, np.array([None])])
def test_anything_else_is_refused(drawn):
    with pytest.raises(SamplerError, match=r"needed a tensor .* from the sampler.* came\. Wrap it: sampler=lambda"):
        as_images(drawn)


def test_mixed_sizes_are_refused():
    with pytest.raises(SamplerError, match="images of one shape"):
        as_images([torch.rand(1, 4, 4), torch.rand(1, 5, 4)])
