"""Every constant of the registration: what it means, its unit, and on which data it was chosen.

Unless another source stands beside it, a constant of images was chosen on seeds 0 and 1 of brains (`ixi_t1`) and spines
(`spider_lumbar`), thumbnails of 96 × 96 pixels, by the true positive rate at 1 and .1 % false flags of the changes in
`examples/detection`; seed 2 of both and the other anatomies there were only measured. Constants of volumes are those of
images where nothing else is said; all were checked on seed 0 of hippocampi (`msd_hippocampus`, 48 × 48 × 48 voxels,
`examples/volumes`), and none was tuned there. "Not tuned" is said of what no data chose. How edges are drawn and
contrast curves fitted, the room of the images knows.
"""

from dataclasses import dataclass
from enum import IntEnum

from mi_callback.errors import DataError

LNCC_LEVELS = tuple(k / 200 for k in range(100, 200))
"""Values of the LNCC, by .005 from .5 to .995, at which it is counted how much structure reaches them. A grid, not a
choice: `copied_fraction` looks at all of them."""


class FoundBy(IntEnum):
    """How retrieval found a candidate. Candidates compete with their like, for a part agrees better than a whole."""

    WHOLE = 0
    WINDOW = 1
    EDGES = 2


@dataclass(frozen=True)
class LevelConfig:
    """One level of the pyramid.

    Attributes:
        share: Side of the images at this level, as a share of the thumbnails'.
        iterations: Gauss-Newton steps of the affine map.
    """

    share: float
    iterations: int


@dataclass(frozen=True)
class AffineSearchConfig:
    """The exhaustive search of affine maps (`affine_search`).

    Attributes:
        side: Side, in pixels, at which maps are tried.
        rotations: Degrees, tried both ways in each plane, beside no rotation.
        zooms: Magnifications that are tried with each rotation and every shift. Without 1.8, chosen on seed 0, the
            middle half of each side, magnified, is mostly lost: LNCC of the right pairs .7, with it .99, and that of
            novel images is the same.
        reach: Farthest shift along each axis, in pixels of the search.
        starts: Maps that are returned, best first. Gauss-Newton starts from each, and from the one that moves nothing.
        least_overlap: Share of the mask that must lie within the other image for a map to be tried.
    """

    rotations: tuple[float, ...]
    reach: int
    side: int = 12
    zooms: tuple[float, ...] = (0.75, 1.0, 1.33)
    starts: int = 2
    least_overlap: float = 0.35


@dataclass(frozen=True)
class GaussNewtonConfig:
    """The refinement of affine maps (`gauss_newton`). Not tuned: safeguards of the numerics.

    Attributes:
        start_iterations: Steps on the coarsest level from every start; the rest of that level go on from the best.
        damping: Added to the diagonal of the Gauss-Newton matrix, relative to its mean.
        largest_step: Bound of each entry of a step, in normalised coordinates.
        largest_linear: Bound of each entry of the linear part of a map: beyond it a map has diverged.
        largest_shift: Bound of the shift, in normalised coordinates (2 is a whole side).
        least_overlap: Share of the mask that must overlap for two images to be compared; below, they correlate 0.
    """

    start_iterations: int = 3
    damping: float = 1e-2
    largest_step: float = 0.3
    largest_linear: float = 2.0
    largest_shift: float = 0.9
    least_overlap: float = 0.25


@dataclass(frozen=True)
class FreeFormConfig:
    """The smooth warp before the affine map (`free_form`).

    Attributes:
        side: Side, in pixels, at which it is fitted.
        controls: Control points along a side. Their spacing is a sixth of it in images (16 of 96 pixels), a quarter in
            volumes.
        stiffness: Weight of the penalty on differences between neighbouring control points, relative to the data. Of
            images aligned as a whole, copies warped by 2 pixels gain .10 of LNCC with .05, and 95 % of them reach .96;
            with .1, 95 % reach .955. Novel images gain .04 (brains) to .06 (spines) with either. Volumes were not tried
            with less than .1.
        damping: Added to the diagonal, relative to the data: control points without structure under them stay put.
        iterations: Gauss-Newton steps.
    """

    side: int
    controls: int
    stiffness: float
    damping: float = 1e-3
    iterations: int = 6


@dataclass(frozen=True)
class LocalContrastConfig:
    """The local contrast that is aligned on the finest level, and by the warp: a bias field would pull images apart.

    Attributes:
        scale: Standard deviation of the neighbourhood, as a share of the side (8 of 96 pixels).
        floor: Deviation, of images in [0, 1], below which there is no structure, and none is enlarged.
    """

    scale: float = 1 / 12
    floor: float = 0.05


@dataclass(frozen=True)
class LocalCorrelationConfig:
    """The map of the LNCC (`local_correlation`).

    Attributes:
        window: Side, in pixels, of the neighbourhoods, odd. With 5, blends and copies at half resolution stand farther
            from strangers than with 9.
        full_structure: Standard deviation, of images in [0, 1], from which a neighbourhood counts in full.
        quantisation: Standard deviation that is added in quadrature, about one step of 8 bits: less is not structure.
        levels: Values at which the structure that reaches them is counted.
    """

    window: int = 5
    full_structure: float = 0.1
    quantisation: float = 0.005
    levels: tuple[float, ...] = LNCC_LEVELS


@dataclass(frozen=True)
class DecisionConfig:
    """How one LNCC comes from the map (`decision`).

    Attributes:
        fine_blur, coarse_blur: Standard deviation, in pixels, of the blur before the two comparisons. Noise takes LNCC
            down, unless it is blurred away; of a copy at half the resolution only what is left after more blur agrees.
            Of two blended images it is fine detail that tells whose they are.
        unexplained: Share of the variance that is never explained: places that agree better than that agree alike.
        region: Side of the regions of which the most similar one decides, as a share of the image's: a copied part is a
            copy, too.
        region_steps: Places of a region along a side, but for its own width.
        least_in_region: Structure that a region must have to decide, relative to its share of the generated image's.
        least_in_overlap: Structure that the overlap must have to decide as a whole, relative to the generated image's.
        coarse_region_weight, coarse_overlap_weight: What the variance that stays unexplained after more blur counts, in
            the best region and in the whole overlap, relative to that after less: so much less of it do strangers leave
            there. Chosen on seed 1 of the brains after blends and half resolution fell short on seed 2.
        full_detail: Detail of the generated image, relative to the match, from which fine detail counts in full. Below,
            what stays unexplained counts more, as much as detail is missing: without noise of their own blurred
            strangers look more alike. Chosen with the weights.
    """

    fine_blur: float = 0.5
    coarse_blur: float = 1.4
    unexplained: float = 0.005
    region: float = 0.5
    region_steps: int = 12
    least_in_region: float = 0.25
    least_in_overlap: float = 0.5
    coarse_region_weight: float = 3.0
    coarse_overlap_weight: float = 2.0
    full_detail: float = 0.95


@dataclass(frozen=True)
class OtherContrastConfig:
    """Pairs in another contrast: aligned by their edges, compared under a contrast curve.

    Attributes:
        edge_scale: Scale, in pixels of the middle level, of the edges that are aligned: where a curve makes two edges
            of one, finer ones lie elsewhere.
        rounds: How often a contrast curve and the map are fitted in turn.
    """

    edge_scale: float = 1.0
    rounds: int = 2


@dataclass(frozen=True)
class Quota:
    """How many candidates of one image and one `FoundBy` go on.

    Attributes:
        aligned: Aligned on the coarsest level after the search of maps, times `candidates` of `register`.
        kept: Refined on the middle level: so many by their correlation on the coarsest, the first of them always, and
            so many by their LNCC on the middle one before it.
        finalists: Compared on the finest level, by their LNCC on the middle one.
    """

    aligned: float
    kept: int
    finalists: int


@dataclass(frozen=True)
class ScheduleConfig:
    """Which candidates go on (`schedule`), and how many pairs at a time.

    Attributes:
        whole, window, edges: Of candidates found as a whole, by a window, and by their edges. Those of images were
            chosen with the copy descriptor, on seed 0 alone, with 24 to 30 copies of each change.
        coarse_batch, fine_batch: Pairs that are aligned at a time, on the coarser levels and on the finest: set for the
            time on two CPU cores; memory grows with them. Results do not depend on them but for rounding.
    """

    coarse_batch: int
    fine_batch: int
    whole: Quota = Quota(aligned=1.0, kept=2, finalists=1)
    window: Quota = Quota(aligned=1.0, kept=1, finalists=1)
    edges: Quota = Quota(aligned=2.0, kept=4, finalists=1)

    @property
    def quotas(self) -> tuple[Quota, ...]:
        """By `FoundBy`."""
        return self.whole, self.window, self.edges


@dataclass(frozen=True)
class CopiedFractionConfig:
    """From which agreement on structure is copied (`copied_fraction`). Definitions, not tuned.

    Attributes:
        usual: Share of the novel people that agree over no more structure than is usual, each level of the LNCC on its
            own.
        rare: Levels that more than this share of the structure of a novel image may reach say nothing.
    """

    usual: float = 0.95
    rare: float = 0.5


@dataclass(frozen=True)
class RegistrationConfig:
    """All constants of the registration of images, or of volumes."""

    search: AffineSearchConfig
    free_form: FreeFormConfig
    schedule: ScheduleConfig
    coarse: LevelConfig = LevelConfig(share=0.25, iterations=10)
    middle: LevelConfig = LevelConfig(share=0.5, iterations=4)
    fine: LevelConfig = LevelConfig(share=1.0, iterations=4)
    gauss_newton: GaussNewtonConfig = GaussNewtonConfig()
    local_contrast: LocalContrastConfig = LocalContrastConfig()
    other_contrast: OtherContrastConfig = OtherContrastConfig()
    local_correlation: LocalCorrelationConfig = LocalCorrelationConfig()
    decision: DecisionConfig = DecisionConfig()
    copied_fraction: CopiedFractionConfig = CopiedFractionConfig()


REGISTRATION = {
    2: RegistrationConfig(
        search=AffineSearchConfig(rotations=(15.0, 30.0), reach=5, zooms=(0.75, 1.0, 1.33, 1.8)),
        free_form=FreeFormConfig(side=48, controls=9, stiffness=0.05),
        schedule=ScheduleConfig(coarse_batch=128, fine_batch=32),
    ),
    3: RegistrationConfig(
        search=AffineSearchConfig(rotations=(20.0,), reach=4),
        free_form=FreeFormConfig(side=24, controls=7, stiffness=0.1),
        schedule=ScheduleConfig(
            coarse_batch=8,
            fine_batch=8,
            whole=Quota(aligned=1.0, kept=3, finalists=2),
            window=Quota(aligned=1.0, kept=3, finalists=1),
            edges=Quota(aligned=1.5, kept=2, finalists=1),
        ),
    ),
}
"""The constants of images (2) and of volumes (3)."""


def registration_config(dims: int) -> RegistrationConfig:
    """The constants for images (2) or volumes (3).

    Raises:
        DataError: For another number of dimensions.

    Example:
        >>> registration_config(3).search.rotations
        (20.0,)
    """
    if dims not in REGISTRATION:
        raise DataError(f"needed images of 2 or 3 dimensions to register; {dims} came.")
    return REGISTRATION[dims]
