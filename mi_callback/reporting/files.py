"""Evidence as files, readable by their owner alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mi_callback.private_files import make_private, replaced
from mi_callback.reporting.drawing import draw_evidence
from mi_callback.reporting.evidence import Evidence
from mi_callback.reporting.gallery import draw_gallery

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GALLERY_FILE = "gallery.png"


def write_evidence(evidence: Sequence[Evidence], folder: str | Path, left_out: int = 0) -> list[Path]:
    """`evidence_0017.png` for the flag of generated image 17, and `gallery.png` with all of them. Patient data.

    Files of these names that an earlier run left in the folder are removed first: they would pass for evidence of this
    one. Without evidence nothing else happens, but that the folder goes where it is empty.

    Args:
        evidence: Most certain first.
        folder: Made where it does not exist.
        left_out: Flags that are not in `evidence`; the gallery says so.

    Returns:
        The files, the gallery last; each readable by its owner alone.

    Raises:
        OutputError: If one cannot be written.
    """
    folder = Path(folder)
    for old in [*folder.glob("evidence_*.png"), *folder.glob(GALLERY_FILE)]:
        old.unlink()
    if not evidence:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        return []
    make_private(folder, lambda name: False)
    written = [_save(draw_evidence(one), folder / f"evidence_{one.row:04}.png") for one in evidence]
    return [*written, _save(draw_gallery(evidence, left_out), folder / GALLERY_FILE)]


def _save(figure: "Figure", path: Path) -> Path:
    with replaced(path) as unfinished:
        figure.savefig(unfinished, format="png")
    return path
