"""Files, batches and pixels: everything that reads images or changes them."""

from mi_callback.images.files import SliceFolder, VolumeFolder, read_image, split_by_subject

__all__ = ["SliceFolder", "VolumeFolder", "read_image", "split_by_subject"]
