"""Files on disk → slices and volumes that know their subject."""

from mi_callback.images.files.accounts import FileAccount, Reason
from mi_callback.images.files.folders import SliceFolder, VolumeFolder, split_by_subject
from mi_callback.images.files.kinds import ORIENTED, PICTURES
from mi_callback.images.files.manifests import find_manifests
from mi_callback.images.files.pixels import read_image
from mi_callback.images.files.scans import Slice

__all__ = [
    "ORIENTED",
    "PICTURES",
    "FileAccount",
    "Reason",
    "Slice",
    "SliceFolder",
    "VolumeFolder",
    "find_manifests",
    "read_image",
    "split_by_subject",
]
