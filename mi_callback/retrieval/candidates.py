"""Which of the hits of a search are worth aligning: each training image once, few of one subject."""

from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_callback.retrieval.config import SEARCH, SearchConfig
from mi_callback.types import Subjects


@dataclass(frozen=True)
class Candidates:
    """Training images to be aligned with each of n queries, up to c of them; the places of missing ones hold −1.

    Attributes:
        row: Row of the training set.
        pose: Position among `POSES` of the pose of the query in which it was found.
        window: Window of the query by which it was found (see `images.windows`); −1 for the whole image.
        by_edges: Whether it was found by edges, or in a view of another contrast.
    """

    row: Int[Tensor, "n c"]
    pose: Int[Tensor, "n c"]
    window: Int[Tensor, "n c"]
    by_edges: Bool[Tensor, "n c"]

    @classmethod
    def of_kind(cls, row: Tensor, pose: Tensor, window: Tensor | None = None, by_edges: bool = False) -> "Candidates":
        """Candidates that were all found in the same way, by the whole image when no windows come."""
        window = torch.full_like(row, -1) if window is None else window
        return cls(row, pose, window, torch.full_like(row, by_edges, dtype=torch.bool))

    def beside(self, *others: "Candidates") -> "Candidates":
        """These and, behind them, others of the same queries."""
        kinds = (self, *others)
        return Candidates(*(torch.cat([getattr(kind, f.name) for kind in kinds], dim=1) for f in fields(self)))

    def by_their_edges(self) -> "Candidates":
        """The same rows and poses, to be aligned as whole images by their edges."""
        return Candidates.of_kind(self.row, self.pose, by_edges=True)

    def first(self, most: int) -> "Candidates":
        """The first of each query."""
        return Candidates(*(getattr(self, field.name)[:, :most] for field in fields(self)))

    def once(self) -> "Candidates":
        """Without those that an earlier one equals; their places hold −1."""
        same = torch.stack(
            [value[:, :, None] == value[:, None] for value in (getattr(self, f.name) for f in fields(self))]
        )
        earlier = same.all(dim=0).tril(diagonal=-1).any(dim=2)
        return replace(self, row=self.row.masked_fill(earlier, -1))


@dataclass(frozen=True)
class Choice:
    """Chosen hits of n queries; `row` is −1 where there are fewer than asked for.

    Attributes:
        row: Row of the training set.
        pose: Pose of the query in which it was found.
        look: In which look it was found.
    """

    row: Int[Tensor, "n c"]
    pose: Int[Tensor, "n c"]
    look: Int[Tensor, "n c"]


def choose(
    rows: Int[Tensor, "n looks k"],
    scores: Float[Tensor, "n looks k"],
    poses: Int[Tensor, " looks"],
    subjects: Subjects | None,
    candidates: int,
    config: SearchConfig = SEARCH,
) -> Choice:
    """The best of k hits in each look: each training image once, at most `config.per_subject` of one subject.

    Args:
        rows: Training image of each hit.
        scores: How similar it is; larger is closer, −inf for no hit.
        poses: The pose of the query in each look.
        subjects: Subject of each training image; without them every image is its own subject.
        candidates: How many are chosen. The first `config.second_poses` of them come again at the end, in the second
            best pose, where they are about as similar in it.
    """
    _, _, k = rows.shape
    rows, scores, poses = rows.flatten(1), scores.flatten(1), poses.repeat_interleave(k)
    chosen, place = _best_rows(rows, scores, subjects, candidates, config.per_subject)
    first = slice(config.second_poses)
    again, elsewhere = _in_second_pose(rows, scores, poses, chosen[:, first], place[:, first], config.second_pose_share)
    chosen, place = torch.cat([chosen, again], dim=1), torch.cat([place, elsewhere], dim=1)
    return Choice(chosen, poses[place], place // k)


def _best_rows(
    rows: Tensor, scores: Tensor, subjects: Subjects | None, candidates: int, per_subject: int
) -> tuple[Tensor, Tensor]:
    """Distinct rows by falling score, few of a subject, and the place of each among the hits, `(n, candidates)`."""
    n = len(rows)
    chosen, place = torch.full((n, candidates), -1), torch.zeros(n, candidates, dtype=torch.long)
    score, order = scores.sort(dim=1, descending=True, stable=True)
    ranked = rows.gather(1, order).masked_fill(score == -torch.inf, -1)
    for i, (query_rows, places) in enumerate(zip(ranked, order, strict=True)):
        taken: dict[int, int] = {}
        of_subject: dict[str, int] = {}
        for row, position in zip(query_rows.tolist(), places.tolist(), strict=True):
            if len(taken) == candidates or row < 0:
                break
            subject = f"row {row}" if subjects is None else subjects[row]
            if row in taken or of_subject.get(subject, 0) >= per_subject:
                continue
            taken[row] = position
            of_subject[subject] = of_subject.get(subject, 0) + 1
        chosen[i, : len(taken)] = torch.tensor(list(taken), dtype=torch.long)
        place[i, : len(taken)] = torch.tensor(list(taken.values()), dtype=torch.long)
    return chosen, place


def _in_second_pose(
    rows: Tensor, scores: Tensor, poses: Tensor, chosen: Tensor, place: Tensor, share: float
) -> tuple[Tensor, Tensor]:
    """The best hit of chosen rows in another pose: the row, −1 where that is much worse, and where it is, `(n, m)`.

    Args:
        rows, scores: Of the hits of each query, `(n, hits)`.
        poses: Of hits, `(hits,)`.
        chosen, place: Rows and where among the hits each was found, `(n, m)`.
        share: Of the similarity in the first pose that must be reached.
    """
    other = (rows[:, None] == chosen[:, :, None]) & (poses != poses[place][:, :, None])
    second, position = scores[:, None].masked_fill(~other, -torch.inf).max(dim=2)
    alike = second >= share * scores.gather(1, place).clamp_min(0)
    return chosen.masked_fill(~alike, -1), position
