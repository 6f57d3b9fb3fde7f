"""Pairs of images, level by level: maps are searched and refined from coarse to fine, then the pairs are compared.

Each function here is a level; which pairs reach it is up to `schedule`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from mi_callback.images.contrast.curves import apply_curve, fit_curve, identity_curve
from mi_callback.images.contrast.edges import edge_strength
from mi_callback.images.filters import gaussian_blur, local_contrast
from mi_callback.images.resizing import shrink
from mi_callback.images.warping import warp
from mi_callback.registration.affine_search import search_maps
from mi_callback.registration.config import (
    LevelConfig,
    LocalContrastConfig,
    OtherContrastConfig,
    RegistrationConfig,
)
from mi_callback.registration.decision import best_region_lncc, decide_lncc
from mi_callback.registration.free_form import fit_displacement
from mi_callback.registration.gauss_newton import identity_maps, refine_best_start, refine_map
from mi_callback.registration.local_correlation import LocalCorrelation, correlate_locally


@dataclass(frozen=True)
class ImagePairs:
    """Images that are aligned alike.

    Attributes:
        generated, reference: In [0, 1].
        mask: 1 where the generated image counts, 0 elsewhere.
        by_edges: Whether they are aligned by their edges, and compared under the contrast curve that fits.
    """

    generated: Float[Tensor, "p 1 *spatial"]
    reference: Float[Tensor, "p 1 *spatial"]
    mask: Float[Tensor, "p 1 *spatial"]
    by_edges: bool = False

    def shrink_to(self, level: LevelConfig) -> "ImagePairs":
        """The same as a level of the pyramid sees them."""
        generated, reference, mask = (_shrink_to(level, image) for image in (self.generated, self.reference, self.mask))
        return ImagePairs(generated, reference, mask, self.by_edges)

    def recolour(self, curve: Float[Tensor, "p knots"] | None) -> "ImagePairs":
        """References under contrast curves, where there are any."""
        return replace(self, reference=_recolour(self.reference, curve))

    def draw_edges(self, config: OtherContrastConfig) -> "ImagePairs":
        """Edges of both, drawn at the level at which these images are."""
        return self._each(lambda image: edge_strength(image, config.edge_scale))

    def equalise_contrast(self, config: LocalContrastConfig) -> "ImagePairs":
        """Local contrast of both: a bias field would pull the images apart. Coarse steps need the whole brightness."""
        scale = config.scale * self.generated.shape[-1]
        return self._each(lambda image: local_contrast(image, scale, config.floor))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "ImagePairs":
        return replace(self, generated=change(self.generated), reference=change(self.reference))


@dataclass(frozen=True)
class Comparison:
    """What the finest level says of p pairs.

    Attributes:
        theta: Maps from generated to reference coordinates.
        curve: Contrast curve under which the reference was compared.
        lncc: The one that decides, in [0, 1]; larger is closer.
        local: Local correlation in fine detail.
        aligned: References in the frame of the generated images, under their curve.
    """

    theta: Float[Tensor, "p dims dims+1"]
    curve: Float[Tensor, "p knots"]
    lncc: Float[Tensor, " p"]
    local: LocalCorrelation
    aligned: Float[Tensor, "p ..."]


def search_coarse(
    pairs: ImagePairs, config: RegistrationConfig
) -> tuple[Float[Tensor, "p starts dims dims+1"], Float[Tensor, " p"]]:
    """Some maps that may align the images, or their edges, best first, and how much speaks for the best."""
    coarse = _coarsen(pairs, config)
    return search_maps(coarse.generated, coarse.reference, coarse.mask, config.search)


def refine_coarse(
    pairs: ImagePairs, starts: Float[Tensor, "p starts dims dims+1"], config: RegistrationConfig
) -> tuple[Float[Tensor, "p dims dims+1"], Float[Tensor, " p"]]:
    """Maps that align the images, or their edges, on the coarsest level, and the magnitude of their correlation."""
    coarse, iterations = _coarsen(pairs, config), config.coarse.iterations
    return refine_best_start(coarse.generated, coarse.reference, coarse.mask, starts, iterations, config.gauss_newton)


def refine_middle(
    pairs: ImagePairs, theta: Float[Tensor, "p dims dims+1"], config: RegistrationConfig
) -> tuple[Float[Tensor, "p dims dims+1"], Float[Tensor, " p"]]:
    """Maps after the level before the finest, and the LNCC there, with a warp where it helps."""
    middle = pairs.shrink_to(config.middle)
    refine = _refine_in_other_contrast if pairs.by_edges else _refine_in_same_contrast
    theta, curve, lncc = _stay_where_better(middle, refine(pairs, middle, theta, config), config)
    displacement = _fit_displacement(middle.recolour(curve).equalise_contrast(config.local_contrast), theta, config)
    warped = _compare_regions(middle, *_move(middle.reference, theta, curve, displacement), config)
    return theta, torch.maximum(lncc, warped)


def compare_middle(
    pairs: ImagePairs, theta: Float[Tensor, "p dims dims+1"], config: RegistrationConfig
) -> Float[Tensor, " p"]:
    """LNCC one level before the finest under given maps, without a warp."""
    return _compare_unwarped(pairs.shrink_to(config.middle), theta, config)[0]


def compare_fine(pairs: ImagePairs, theta: Float[Tensor, "p dims dims+1"], config: RegistrationConfig) -> Comparison:
    """The finest level: maps are refined once more, and the pairs compared, with a warp where it helps."""
    curve, structure = _match_contrast(pairs, theta, config)
    theta = _refine(structure, theta, config.fine.iterations, config)
    if pairs.by_edges:
        curve, structure = _match_contrast(pairs, theta, config)
    displacement = _fit_displacement(structure, theta, config)
    moved = _move(pairs.reference, theta, curve)
    warped = _move(pairs.reference, theta, curve, displacement)
    lncc, local, aligned = _compare_moved_and_warped(pairs.generated, moved, warped, config)
    if curve is None:
        curve = identity_curve(aligned).expand(len(theta), -1)
    return Comparison(theta, curve, lncc, local, aligned[:, 0])


# Aligning


def _coarsen(pairs: ImagePairs, config: RegistrationConfig) -> ImagePairs:
    """As the coarsest level sees the images, or their edges, drawn on the middle level."""
    side = round(config.coarse.share * pairs.mask.shape[-1])
    drawn = pairs.shrink_to(config.middle).draw_edges(config.other_contrast) if pairs.by_edges else pairs
    generated, reference, mask = (shrink(image, side) for image in (drawn.generated, drawn.reference, drawn.mask))
    return ImagePairs(generated, reference, mask, pairs.by_edges)


def _shrink_to(level: LevelConfig, images: Tensor) -> Tensor:
    return shrink(images, round(level.share * images.shape[-1]))


def _refine_in_same_contrast(
    pairs: ImagePairs, middle: ImagePairs, theta: Tensor, config: RegistrationConfig
) -> Tensor:
    """Maps after the middle level, of grey values."""
    return _refine(middle, theta, config.middle.iterations, config)


def _refine_in_other_contrast(
    pairs: ImagePairs, middle: ImagePairs, theta: Tensor, config: RegistrationConfig
) -> Tensor:
    """Maps after the middle level: of edges, then of images under the curve that fits, in turn."""
    theta = _refine(middle.draw_edges(config.other_contrast), theta, config.middle.iterations, config)
    for _ in range(config.other_contrast.rounds):
        recoloured = _recolour(pairs.reference, _fit_curve(middle, theta))
        alike = replace(middle, reference=_shrink_to(config.middle, recoloured))
        theta = _refine(alike, theta, config.middle.iterations, config)
    return theta


def _refine(pairs: ImagePairs, theta: Tensor, iterations: int, config: RegistrationConfig) -> Tensor:
    return refine_map(pairs.generated, pairs.reference, pairs.mask, theta, iterations, config.gauss_newton)[0]


def _stay_where_better(
    middle: ImagePairs, theta: Tensor, config: RegistrationConfig
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Maps, or the identity where images agree better under it; the curves that fit, and the LNCC.

    Most copies are not moved. Of a part of one, pasted where it lay, the rest pulls the map away; of one in another
    contrast the edges may not be enough to align.
    """
    identity = identity_maps(theta)
    moved, curve = _compare_unwarped(middle, theta, config)
    unmoved, curve_unmoved = _compare_unwarped(middle, identity, config)
    stays = (unmoved > moved)[:, None]
    if curve is not None and curve_unmoved is not None:
        curve = torch.where(stays, curve_unmoved, curve)
    return torch.where(stays[..., None], identity, theta), curve, torch.maximum(moved, unmoved)


def _fit_displacement(structure: ImagePairs, theta: Tensor, config: RegistrationConfig) -> Tensor:
    return fit_displacement(structure.generated, structure.reference, structure.mask, theta, config.free_form)


def _move(
    reference: Tensor, theta: Tensor, curve: Tensor | None, displacement: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Images under a small warp, a map and then a curve, and 1 where they lie inside.

    The curve comes last: thin lines that it draws between two tissues would not survive what moves them.
    """
    image, inside = warp(reference, theta, displacement)
    return _recolour(image, curve), inside


# Contrast


def _match_contrast(pairs: ImagePairs, theta: Tensor, config: RegistrationConfig) -> tuple[Tensor | None, ImagePairs]:
    """The curves that fit, where pairs are in another contrast, and the structure of both images under them."""
    curve = _fit_curve(pairs, theta) if pairs.by_edges else None
    return curve, pairs.recolour(curve).equalise_contrast(config.local_contrast)


def _fit_curve(pairs: ImagePairs, theta: Tensor) -> Tensor:
    """The curve of each reference, under its map, `(p, knots)`."""
    moved, inside = warp(pairs.reference, theta)
    return fit_curve(moved, pairs.generated, inside * pairs.mask)


def _recolour(images: Tensor, curve: Tensor | None) -> Tensor:
    return images if curve is None else apply_curve(images, curve)


# Comparing


def _compare_unwarped(pairs: ImagePairs, theta: Tensor, config: RegistrationConfig) -> tuple[Tensor, Tensor | None]:
    """LNCC under a map without a warp, `(p,)`, and the curve under which, where pairs are in another contrast."""
    curve = _fit_curve(pairs, theta) if pairs.by_edges else None
    return _compare_regions(pairs, *_move(pairs.reference, theta, curve), config), curve


def _compare_regions(pairs: ImagePairs, aligned: Tensor, inside: Tensor, config: RegistrationConfig) -> Tensor:
    """LNCC of the best region, the mean of that in the mask and that anywhere, `(p,)`.

    A copied part agrees where it was found, a whole image beyond it.
    """
    local = correlate_locally(pairs.generated, aligned, inside, config.local_correlation)
    in_mask, anywhere = (best_region_lncc(local, config.decision, where) for where in (pairs.mask, None))
    return (in_mask + anywhere) / 2


def _compare_moved_and_warped(
    generated: Tensor, moved: tuple[Tensor, Tensor], warped: tuple[Tensor, Tensor], config: RegistrationConfig
) -> tuple[Tensor, LocalCorrelation, Tensor]:
    """The LNCC that decides, local correlation in fine detail, and references, warped where they agree better so."""
    decision = config.decision
    fine_moved, fine_warped = (_correlate_blurred(generated, *p, decision.fine_blur, config) for p in (moved, warped))
    lncc_moved, lncc_warped = (best_region_lncc(local, decision) for local in (fine_moved, fine_warped))
    better = lncc_warped > lncc_moved
    places = better.view(-1, *(1 for _ in generated.shape[1:]))
    aligned, inside = (torch.where(places, ours, theirs) for ours, theirs in zip(warped, moved, strict=True))
    fine = fine_warped.where(better, fine_moved)
    coarse = _correlate_blurred(generated, aligned, inside, decision.coarse_blur, config)
    return decide_lncc(torch.maximum(lncc_moved, lncc_warped), fine, coarse, decision), fine, aligned


def _correlate_blurred(
    generated: Tensor, aligned: Tensor, inside: Tensor, blur: float, config: RegistrationConfig
) -> LocalCorrelation:
    dims = generated.ndim - 2
    ours, theirs = (gaussian_blur(images, blur, dims) for images in (generated, aligned))
    return correlate_locally(ours, theirs, inside, config.local_correlation)
