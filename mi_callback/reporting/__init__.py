"""Results as pictures and tables.

`collect_evidence` reads flagged images again and aligns them to their matches; `write_evidence` draws each flag as one
picture that a radiologist can judge, and all of them as a gallery; `closest_pairs` gives the pixels alone. All of it is
patient data.
"""

from mi_callback.reporting.collection import closest_pairs, collect_evidence
from mi_callback.reporting.drawing import draw_evidence
from mi_callback.reporting.evidence import Evidence
from mi_callback.reporting.files import write_evidence
from mi_callback.reporting.gallery import draw_gallery

__all__ = ["Evidence", "closest_pairs", "collect_evidence", "draw_evidence", "draw_gallery", "write_evidence"]
