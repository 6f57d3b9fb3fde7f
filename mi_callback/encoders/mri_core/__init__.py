"""MRI-CORE (Dong et al. 2025): a ViT-B/16 trained on MRI slices of many anatomies, from its published checkpoint."""

from mi_callback.encoders.mri_core.encoder import build_mri_core

__all__ = ["build_mri_core"]
