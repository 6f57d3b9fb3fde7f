"""The wrong training set as a control: people who were certainly not trained on, in the place of those who were.

What resembles them as copies do is no copy. Members against non-members is the comparison that reviewers ask for.
"""

import warnings

from mi_callback.detection.leaks import without_leaks
from mi_callback.detection.sides import difference_of_sides
from mi_callback.retrieval.features import Features

COMPARABLE = 0.5
"""A control of fewer images than this share of the training images resembles samples less by its size alone."""


def control_people(train: Features, control: Features, seed: int) -> Features:
    """Control images of people who are not in the training set; warns where they cannot stand for these.

    Args:
        train: Training images.
        control: Of other people.
        seed: Of the comparison of both.

    Raises:
        DataError: If fewer than two images are left.
    """
    control = without_leaks(train, control, "control")
    if len(control) < COMPARABLE * len(train):
        warnings.warn(
            f"the control has {len(control)} images and the training set {len(train)}: so few resemble samples less by "
            "their number alone. Give about as many.",
            stacklevel=3,
        )
    if difference_of_sides(train, control, seed) is not None:
        warnings.warn(
            "control and training images differ, as those of another site or preprocessing do: a control of the same "
            "source says more.",
            stacklevel=3,
        )
    return control


def held_out_beside(control: Features, held_out: Features) -> Features:
    """Held-out images of people who are not in the control: its null."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        kept = without_leaks(control, held_out)
    if told:
        warnings.warn(
            f"{len(held_out) - len(kept)} held-out images show people of the control, and are left out of its null.",
            stacklevel=3,
        )
    return kept
