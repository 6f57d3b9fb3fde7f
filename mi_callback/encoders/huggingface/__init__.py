"""Vision backbones of Hugging Face transformers, by hub id or folder: their hidden states as layers."""

from mi_callback.encoders.huggingface.backbone import build_huggingface
from mi_callback.encoders.huggingface.families import FAMILIES, Family

__all__ = ["FAMILIES", "Family", "build_huggingface"]
