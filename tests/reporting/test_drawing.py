"""Pages show the pictures, say what they leave out, and nothing on them overlaps."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mi_callback.reporting import draw_evidence, draw_gallery
from mi_callback.reporting.panels import structure_weight


def pixels(page) -> list[np.ndarray]:
    return [np.ma.filled(axes.images[-1].get_array(), np.nan) for axes in page.axes if axes.images]


def words(page) -> list[str]:
    return [text.get_text() for text in page.texts]


def test_panels_show_what_they_say(posed):
    one = posed["flip_vertical"]
    page = draw_evidence(one)
    for shown, image in zip(pixels(page), vars(one.pictures).values(), strict=True):
        np.testing.assert_array_equal(shown, image.numpy())
    scales = [axes.images[-1].get_clim() for axes in page.axes if axes.images]
    assert scales == [(0, 1)] * 3 + [(-0.5, 0.5), (0, 1)]


def test_pages_of_volumes_say_what_their_planes_are_and_part_them(of_volumes, posed):
    one = of_volumes[-1][3]
    page = draw_evidence(one)
    assert all(len(axes.lines) == 2 for axes in page.axes[:3])
    for shown, image in zip(pixels(page), vars(one.pictures).values(), strict=True):
        np.testing.assert_array_equal(shown, image.numpy())
    assert "the middle planes are shown: across the depth upper left" in " ".join(words(page))
    flat = draw_evidence(posed["identity"])
    assert not any(axes.lines for axes in flat.axes if axes.images)
    assert "planes" not in " ".join(words(flat))


def test_structure_of_planes_does_not_see_the_next_plane():
    image = torch.full((32, 32), 0.2)
    image[:16, 16:] = 0.8  # flat in itself
    image[16:, 16:] = torch.nan
    assert structure_weight(image, 2).max() < 1e-2
    assert structure_weight(image, 1).max() > 0.9


def test_the_gallery_says_what_it_leaves_out(posed):
    flags = [replace(posed["identity"], row=row) for row in range(5)]
    page = draw_gallery(flags, left_out=7, most=3)
    assert len(page.axes) == 3 * 4
    assert words(page)[0] == "3 flagged images, most certain first; 9 more not shown"
    titles = [text.split(",")[0] for text in words(page) if text.startswith("Generated image")]
    assert titles == [f"Generated image {row}" for row in range(3)]
    whole = draw_gallery(flags[:1])
    assert len(whole.axes) == 4
    assert words(whole)[0] == "1 flagged image, most certain first"
    assert not any("not shown" in text for text in words(whole))


@pytest.mark.parametrize("subject", [None, "IXI042", "$x_{$ " + "long-identifier/" * 20])
def test_no_text_touches_another_or_leaves_the_page(posed, subject):
    one = replace(
        posed["rotation_270"],
        subject=subject,
        source=subject,
        match_source=subject,
        novel=replace(posed["rotation_270"].novel, kind="train_halves"),
        row=99999,
    )
    for page in (draw_evidence(one), draw_gallery([one] * 3)):
        page.canvas.draw()
        renderer = page.canvas.get_renderer()
        texts = [*page.texts, *(label for axes in page.axes for label in axes.get_xticklabels())]
        boxes = [text.get_window_extent(renderer) for text in texts if text.get_text()]
        boxes += [axes.get_window_extent(renderer) for axes in page.axes]
        width, height = page.canvas.get_width_height()
        for k, box in enumerate(boxes):
            assert box.x0 >= 0
            assert box.y0 >= 0
            assert box.x1 <= width
            assert box.y1 <= height
            for other in boxes[:k]:
                across = min(box.x1, other.x1) - max(box.x0, other.x0)
                down = min(box.y1, other.y1) - max(box.y0, other.y0)
                assert across <= 0 or down <= 0, f"{box} and {other}"
