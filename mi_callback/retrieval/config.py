"""How many candidates are looked up, and how: constants of the search, with the data on which they were chosen."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SearchConfig:
    """Constants of the search for candidates.

    Chosen on seeds 0 and 1 of the detection benchmark: brains (ixi_t1) and lumbar spines (spider_lumbar); those of the
    descriptor, `by_grey_values` and `by_edges_too` on seed 0 alone, with 24 to 30 copies of each change.

    Attributes:
        per_subject: Candidates taken from one subject: eight slices of one patient are not eight candidates.
        by_window: Candidates that are looked up by a window, beside those of the whole image.
        by_edges: Candidates of volumes that are looked up by edges, beside these.
        by_descriptor: Candidates that are looked up by the copy descriptor; all are aligned by edges.
        by_grey_values: The first of these are aligned by their grey values too.
        by_edges_too: Candidates by the whole image, and by a window, that are aligned by edges too, as whole images.
        hits: Nearest neighbours asked of each index in each look, per candidate that is looked up.
        second_poses: How many of the best candidates are tried in a second pose too.
        described_second_poses: The same of candidates by the descriptor.
        second_pose_share: Similarity in the second pose, as a share of that in the first, from which it is tried: the
            sides of a brain look alike to an encoder, but only in one pose is it the copy.
    """

    per_subject: int = 4
    by_window: int = 8
    by_edges: int = 24
    by_descriptor: int = 24
    by_grey_values: int = 12
    by_edges_too: int = 6
    hits: int = 2
    second_poses: int = 3
    described_second_poses: int = 6
    second_pose_share: float = 0.7


SEARCH = SearchConfig()
