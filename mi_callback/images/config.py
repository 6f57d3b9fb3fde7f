"""The tuned constants of this room, and the data on which they were chosen.

*Benchmark* means `examples/detection`: seeds 0 and 1 of the brain (T1, IXI) and of the lumbar spine (SPIDER). Seed 2
and the other anatomies there were never used to choose anything.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class IntensityConfig:
    """Quantile scaling of grey values.

    Attributes:
        low: Quantile that becomes 0. Hot pixels and noise lie beyond both; a convention, not tuned.
        high: Quantile that becomes 1.
    """

    low: float = 0.005
    high: float = 0.995


@dataclass(frozen=True)
class FrameConfig:
    """The frame that moves with the anatomy (`frames`). Chosen on the benchmark, with shifted and magnified copies.

    Attributes:
        coarse: Side, in pixels, at which centre and spread of brightness are measured: noise averages out.
        dark: Share of an image that is taken for background, whose brightness weighs nothing.
        reach: Half side of the frame, in standard deviations of where brightness lies (root mean square over the axes).
    """

    coarse: int = 24
    dark: float = 0.1
    reach: float = 1.7


@dataclass(frozen=True)
class EdgeConfig:
    """Edges that two contrasts of one anatomy have in common (`contrast.edges`). Chosen on the benchmark, with T2-like
    copies of T1 slices.

    Attributes:
        around: Scale of the neighbourhood in which edges are made equally strong, relative to that of the edges.
        faint: Slope, per pixel of an image in [0, 1], of edges that stay faint: of noise in what is empty.
    """

    around: float = 4
    faint: float = 0.003


@dataclass(frozen=True)
class CurveConfig:
    """Contrast curves (`contrast.curves`). Chosen on the benchmark, with T2-like and randomly recoloured copies.

    Attributes:
        knots: Of a fitted curve, evenly spread over the grey values; linear between them.
        stiffness: Weight of the penalty on bends, relative to the data: grey values that hardly occur follow their
            neighbours.
        same: Correlation of an image with what a curve made of it, from which both show the same contrast.
    """

    knots: int = 17
    stiffness: float = 1e-3
    same: float = 0.95


@dataclass(frozen=True)
class WindowConfig:
    """Overlapping windows of an image (`windows`). Three half-sided windows a side are the fewest that overlap by half.

    Attributes:
        per_side: Windows along each side, evenly spread.
        share: Side of a window as a share of that of the image.
        structured: Contrast, relative to that of the whole image, from which a window shows anatomy rather than
            background. Chosen on the benchmark, with pasted halves and quarters.
        contrast: Side, in pixels, of the neighbourhood whose standard deviation is the contrast at a place.
    """

    per_side: int = 3
    share: float = 0.5
    structured: float = 0.25
    contrast: int = 9


@dataclass(frozen=True)
class ThumbnailConfig:
    """Where the anatomy of a volume ends (`thumbnails`). Chosen on hippocampi (MSD) with noise and margins added.

    Attributes:
        empty: Brightness, of a volume in [0, 1], up to which a voxel is empty.
        faint: Mean brightness of the voxels around it up to which it is empty too: noise in the air must not hide where
            the anatomy ends.
        around: Side, in voxels, of what is around a voxel.
    """

    empty: float = 0.02
    faint: float = 0.05
    around: int = 3


@dataclass(frozen=True)
class AppearanceConfig:
    """How images are described whoever they show (`appearance`). Conventions, not tuned.

    Attributes:
        empty: Brightness, in [0, 1], up to which a pixel is empty.
        margin: Width of the bands at the sides, as a share of the side.
        corner: Side of the corners in which text is looked for, as a share of the side.
        blur: Standard deviation, in pixels, of the blur that sharp slopes do not survive.
    """

    empty: float = 0.1
    margin: float = 1 / 8
    corner: float = 1 / 3
    blur: float = 1.0


@dataclass(frozen=True)
class QualityConfig:
    """How sharpness and noise of samples are given to real images (`quality.degradation`). Chosen on blurred, noisy,
    compressed and truncated slices of brains (T1, IXI) and lumbar spines (SPIDER), seed 0.

    Attributes:
        rings: Of spatial frequency, of equal width, up to the Nyquist frequency.
        anatomy: Lowest rings, which show the anatomy rather than the sharpness: they are left as they are.
        steps: Of the fixed-point iteration.
        least_gain: Logarithm of the least gain of the amplitude.
        most_gain: And of the largest.
        least_noise: Standard deviation of noise below which none is added.
        least_signal: Share of the power at a frequency that is no noise, from which its gain can be seen.
        around: Standard deviation, in pixels, of the blur under which a pixel that is not empty stays bright.
        empty: Brightness, in [0, 1], up to which it is empty.
        visible_gain: Change of the logarithm of the gain, weighted by the larger gain, that is a change of quality. At
            .25, brains blurred by 1.5 pixels were compared with real ones blurred by 2, and 15 % of them flagged.
        compared: Lowest rings whose gain counts for that: finer ones show noise, or rounding to bytes.
        visible_noise: Change of the standard deviation of noise that is one.
        sure: Standard errors that do not count as a change.
    """

    rings: int = 24
    anatomy: int = 4
    steps: int = 3
    least_gain: float = -8.0
    most_gain: float = 0.5
    least_noise: float = 0.004
    least_signal: float = 0.3
    around: float = 2.0
    empty: float = 0.15
    visible_gain: float = 0.1
    compared: int = 16
    visible_noise: float = 0.01
    sure: float = 2.0


@dataclass(frozen=True)
class PatternConfig:
    """Periodic patterns (`patterns`). Chosen on brains (T1, IXI), with stripes and grids of .2 to .5 added, and on
    spines (SPIDER) as they are: of 849 slices of three anatomies none is taken for patterned.

    Attributes:
        found: Logarithm of the amplitude of a wave, relative to that of the frequencies around it, from which it is no
            anatomy.
        also: The same in an image that bears such a wave: of its harmonics.
        visible: Amplitude, in standard deviations of the image, from which such a wave is a pattern: the ends of a
            truncated spectrum stand out, too, and are .04 at most.
        visible_slow: The same of waves of at most `repeated` cycles per pixel: those of vertebrae are up to .28.
        faint: The same of harmonics.
        slow: Cycles per pixel up to which waves are anatomy.
        repeated: Cycles per pixel up to which anatomy may repeat itself.
        lobe: Half side, in frequencies, of the peak that a wave makes under the taper.
        ring: Half side of what is around it.
        local: Scale, in pixels, at which the strength of a wave may change.
        apart: Cycles per pixel between waves that are taken out at once: at this scale they have nothing in common.
        thin: Skewness of a pattern from which it is lines rather than stripes: of a grid of period 6 it is .8.
        fill: Standard deviation, in pixels, of the blur with which lines are filled.
        rounds: In which waves are looked for, each after the strongest of the last were taken out.
        least_side: Of an image, in pixels: enlarged, smaller ones have waves of their own.
    """

    found: float = 2.4
    also: float = 1.8
    visible: float = 0.12
    visible_slow: float = 0.4
    faint: float = 0.02
    slow: float = 1 / 20
    repeated: float = 1 / 10
    lobe: int = 2
    ring: int = 4
    local: float = 6.0
    apart: float = 1 / 15
    thin: float = 0.5
    fill: float = 0.8
    rounds: int = 8
    least_side: int = 64


INTENSITY = IntensityConfig()
FRAME = FrameConfig()
EDGES = EdgeConfig()
CURVES = CurveConfig()
WINDOW = WindowConfig()
THUMBNAIL = ThumbnailConfig()
APPEARANCE = AppearanceConfig()
QUALITY = QualityConfig()
PATTERN = PatternConfig()

IMAGES = (INTENSITY, FRAME, EDGES, CURVES, WINDOW, THUMBNAIL, APPEARANCE, QUALITY, PATTERN)
"""All of them, for fingerprints: features and thumbnails change with any."""
