"""What others say of an image, one number each, rewritten from their papers; larger is closer to the training set."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from peers.learned import deep_ssim, two_stage
from torch import Tensor

from mi_callback.encoders.descriptor import copy_descriptor, describe
from mi_callback.images.resizing import resize
from mi_callback.images.thumbnails import THUMBNAIL_SIDE, make_thumbnails
from mi_callback.statistics.set_scores.features import nearest, unit_rows


@dataclass(frozen=True)
class Seen:
    """Images in [0, 1], and features of the bundled encoder: as they come, and whitened."""

    images: Tensor
    plain: Float[Tensor, "n d"]
    whitened: Float[Tensor, "n d"]


Rule = Callable[[Seen], Float[Tensor, " n"]]
"""Images → one number each."""


@dataclass(frozen=True)
class Peer:
    """A rule of the literature.

    Attributes:
        title: Name, and whose it is.
        fixed: Threshold that is used with it whatever the data are; None where there is none.
    """

    title: str
    fixed: float | None


PEERS: Mapping[str, Peer] = {
    "pixels": Peer("pixels, nearest by correlation", 0.95),
    "features": Peer("features, nearest by cosine", 0.95),
    "sscd": Peer("SSCD-like copy descriptor", 0.5),
    "ssim": Peer("DeepSSIM-like", None),
    "lcmem": Peer("LCMem-like, two stages", 0.5),
    "authenticity": Peer("authenticity (AuthPct)", 1.0),
    "m3": Peer("M3-Score: nearer than the median", -1.0),
}


def fitted(train: Seen, people: list[str], steps: Mapping[str, int], seed: int) -> dict[str, Rule]:
    """All rules, fitted on training images."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        ssim = deep_ssim(train.images, steps["ssim"], seed)
        lcmem = two_stage(train.images, people, (steps["identity"], steps["copies"]), seed)
    return {
        "pixels": cosine(train, lambda seen: standardised(seen.images)),
        "features": cosine(train, lambda seen: unit_rows(seen.plain)),
        "sscd": cosine(train, lambda seen: described(seen.images)),
        "ssim": cosine(train, lambda seen: ssim(seen.images)),
        "lcmem": cosine(train, lambda seen: lcmem(seen.images)),
        "authenticity": authenticity(train.whitened),
        "m3": median_neighbour(train.whitened),
    }


def cosine(train: Seen, embed: Callable[[Seen], Tensor]) -> Rule:
    """Cosine of the nearest training image in an embedding of unit length."""
    bank = embed(train)
    return lambda seen: (embed(seen) @ bank.T).amax(dim=1)


def standardised(images: Tensor) -> Tensor:
    """Pixels at 64 px about their mean, of unit length: their inner product is the correlation.

    Akbar, Wang and Eklund, "Beware of diffusion models for synthesizing medical images", arXiv 2305.07644, look for the
    training image of the highest correlation. The threshold of .95 is a choice of ours.
    """
    pixels = resize(images, (64, 64)).flatten(1)
    return F.normalize(pixels - pixels.mean(dim=1, keepdim=True), dim=1)


def described(images: Tensor) -> Tensor:
    """This package's copy descriptor, alone, in one pose, without registration.

    Stands in for SSCD (Pizzi et al., "A self-supervised descriptor for image copy detection", CVPR 2022), whose weights
    are not at hand and were not trained on MRI; Somepalli et al., "Diffusion art or digital forgery?", CVPR 2023, call
    what has a cosine above .5 a copy.
    """
    return describe(copy_descriptor(), make_thumbnails(images, THUMBNAIL_SIDE[2]), ["identity"])[0]


def authenticity(train: Tensor) -> Rule:
    """How far the nearest training image is from its own next of kin, by how far it is from the image.

    Above 1 the image is not authentic: Alaa et al., "How faithful is your synthetic data?", ICML 2022. The fault of
    public copies, which look up the kin of another image, is mended (`statistics.set_scores.authpct`).
    """
    kin = nearest(train, train, but=torch.arange(len(train))).distance

    def rule(seen: Seen) -> Tensor:
        found = nearest(seen.whitened, train)
        return kin[found.row] / found.distance.clamp_min(1e-9)

    return rule


def median_neighbour(train: Tensor) -> Rule:
    """Minus the distance to the nearest training image, by the median that training images have among themselves.

    Above −1 an image is nearer than the median neighbour: the rule of M3-Score as it is known here, from its
    description; its source was not at hand.
    """
    usual = nearest(train, train, but=torch.arange(len(train))).distance.median()
    return lambda seen: -nearest(seen.whitened, train).distance / usual
