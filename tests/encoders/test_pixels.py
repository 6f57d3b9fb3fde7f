"""Thumbnails as features."""

import pytest
import torch
from encoder_contract import EncoderContract

from mi_callback.encoders import build_encoder

pytestmark = pytest.mark.numeric


@pytest.mark.parametrize("sides", [(8, 16), (4,), (2, 4, 8)])
def test_the_pixel_encoder_is_block_means(sides, generator):
    encoder = build_encoder("pixels", sides=sides, size=16)
    images = torch.rand(3, 1, 16, 16, generator=generator)
    found = list(encoder(images).values())
    assert [features.shape for features in found] == [(3, side**2) for side in sides]
    for side, features in zip(sides, found, strict=True):
        step = 16 // side
        for y in range(side):
            for x in range(side):
                block = images[:, 0, y * step : (y + 1) * step, x * step : (x + 1) * step]
                assert torch.allclose(features[:, y * side + x], block.mean(dim=(1, 2)), atol=1e-6)


class TestPixels(EncoderContract):
    names = ("pixels",)

    def build(self, tmp_path):
        return build_encoder("pixels")
