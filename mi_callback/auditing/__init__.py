"""Folders in, scores and their files out; which encoder suits them; volumes judged by their slices."""

from mi_callback.auditing.folder_audit import audit
from mi_callback.auditing.ranking import rank
from mi_callback.auditing.volumes import score_volumes

__all__ = ["audit", "rank", "score_volumes"]
