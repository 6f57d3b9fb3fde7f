"""Files on disk → slices and volumes that know their subject."""

from mi_callback.images.files.folders import Slice, SliceFolder, VolumeFolder, split_by_subject
from mi_callback.images.files.kinds import PICTURES
from mi_callback.images.files.pixels import read_image

__all__ = ["PICTURES", "Slice", "SliceFolder", "VolumeFolder", "read_image", "split_by_subject"]
