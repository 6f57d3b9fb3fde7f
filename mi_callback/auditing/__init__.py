"""Folders in, scores and their files out."""

from mi_callback.auditing.folders import audit

__all__ = ["audit"]
