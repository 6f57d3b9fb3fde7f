"""Random numbers of the training, which nothing here may use up."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def rng_kept() -> Iterator[None]:
    """Lightning's `isolate_rng`, which alone does not put the states back when something raises."""
    from lightning.pytorch.utilities.seed import isolate_rng

    raised: BaseException | None = None
    with isolate_rng():
        try:
            yield
        except BaseException as error:
            raised = error
    if raised is not None:
        raise raised
