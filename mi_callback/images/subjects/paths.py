"""Paths → subjects: which part of a path names a person, and which names a class, a site or a study."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from mi_callback.images.subjects.ids import normal_id
from mi_callback.types import Kind

NIBABEL = (".nii", ".nii.gz", ".mgz", ".mgh", ".hdr")
ITK = (".mha", ".mhd", ".nrrd", ".nhdr")
HDF5, ZARR = (".h5", ".hdf5"), (".zarr",)
VOLUMES = (*NIBABEL, *ITK, *HDF5, *ZARR)
"""Endings of volumes, by who reads them."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


WORDS = _words(
    """
    image images img imgs picture pictures photo photos slice slices frame frames data dataset datasets raw processed
    preprocessed png pngs jpg jpgs jpeg jpegs tif tiff bmp dicom dicoms dcm nifti niftis nii npy npz
    train training tr val valid validation dev test testing eval heldout holdout held out generated gen real fake
    synthetic samples sample original originals augmented
    normal abnormal healthy unhealthy sick disease diseased pneumonia covid tuberculosis tb benign malignant cancer
    tumor tumour notumor glioma meningioma pituitary lesion lesions nonlesion opacity viral bacterial lung positive
    negative pos neg yes no non not mild moderate severe very early late high low none other others hgg lgg demented
    nondemented dementia infected uninfected effusion nodule mass fracture hemorrhage stroke control controls cases
    patients subjects people participants class classes label labels
    anat func dwi t1 t2 t1w t2w t1c t1ce t1gd t2f
    flair pd pdw swi adc mri mr ct cr dx xray x ray us pet axial coronal sagittal ax cor sag left
    right male female m f ad mci cn smci pmci emci lmci hc nc brain knee heart spine chest liver prostate breast study
    cohort project site group folder dir set scans anatomy
    """
)
"""Words that name classes, splits, kinds of files, organs and studies, not people."""

NUMBERED = _words(
    """
    class label grade stage fold site scanner center centre split part batch group series session ses visit run
    study cohort project set dataset folder level type covid
    """
)
"""Words that name no person when a number follows, either: `fold1`, `site-2`, `T1`."""

_BIDS_LABEL = re.compile(r"(?:^|[/\\_])sub-([A-Za-z0-9]+)((?:_[A-Za-z0-9]+)*)")
_CONTINUED = re.compile(
    r"(?:_(?!slice|img|image|frame|run|ses|T[12])[A-Za-z]{0,6}\d[A-Za-z0-9]*\d[A-Za-z0-9]*|_[A-Z](?=_\d{2}))+"
)


class Rule(Kind):
    """What told the subject of a file."""

    FUNCTION = "your function"
    MANIFEST = "a manifest"
    BIDS = "BIDS labels (sub-…)"
    PATIENT = "the PatientID in the file"
    FOLDER = "folder names"
    VOLUME = "volumes, each its own subject"
    NOTHING = "nothing"


class Attribution(NamedTuple):
    """The subject of a file, None where nothing tells it, and what told it."""

    subject: str | None
    rule: Rule


def names_no_person(name: str) -> bool:
    """Whether a folder's name is that of a class, a split, a kind of file, an organ or a study, and of no person.

    Example:
        >>> [names_no_person(name) for name in ("NORMAL", "Viral Pneumonia", "fold_1", "T1", "p1", "OAS30001")]
        [True, True, True, True, False, False]
    """
    if name.casefold() in WORDS:
        return True
    words = re.findall(r"[A-Za-z]+|\d+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name))
    letters = [word.casefold() for word in words if not word.isdigit()]
    if not letters:
        return False
    if any(word.isdigit() for word in words):
        return all(word in NUMBERED for word in letters)
    return all(word in WORDS for word in letters)


def bids_label(path: str) -> str | None:
    """The innermost BIDS subject in a path, `sub-…`, or None.

    Labels of studies that continue their capitals after an underscore are taken whole, `sub-NDAR_INV0AB1`; folders like
    `sub-study` name no person.
    """
    found = None
    for match in _BIDS_LABEL.finditer(path):
        label, rest = match.groups()
        if names_no_person(label):
            continue
        more = _CONTINUED.match(rest) if re.fullmatch(r"[A-Z]{2,}", label) else None
        found = f"sub-{label}{more.group() if more else ''}"
    return found


def subject_in_path(path: str) -> str | None:
    """The BIDS subject (`sub-…`) in a path; for a volume else its path, as its slices are one subject; else None."""
    return attribute_path(path).subject


def attribute_path(path: str) -> Attribution:
    """As `subject_in_path`, with the rule that told it."""
    if label := bids_label(path):
        return Attribution(label, Rule.BIDS)
    if path.lower().endswith(VOLUMES):
        return Attribution(path, Rule.VOLUME)
    return Attribution(None, Rule.NOTHING)


def attribute_files(
    paths: Sequence[Path], root: Path, patient: Callable[[Path], str | None] = lambda path: None
) -> list[Attribution]:
    """Whose images the files below a folder are, by BIDS labels, the PatientID in the file, or the names of folders.

    Of folders the first level counts that holds names of people at all; see `names_no_person`.

    Args:
        paths: Files below `root`.
        root: What lies above it tells nothing.
        patient: The PatientID of a file, None where it has none.
    """
    level = _level_of_people([path.relative_to(root).parts[:-1] for path in paths])
    return [_attribute(path, path.relative_to(root), level, patient) for path in paths]


def count_rules(found: Sequence[Attribution]) -> str:
    """What told the subjects, with counts, for people to read.

    Example:
        >>> count_rules([Attribution("s1", Rule.FOLDER), Attribution("s1", Rule.FOLDER), Attribution("v", Rule.BIDS)])
        '2 subjects of 3 images, by folder names (2 images), BIDS labels (sub-…) (1 images)'
    """
    rules = Counter(rule for _, rule in found)
    known = len({subject for subject, _ in found if subject is not None})
    said = ", ".join(f"{rule.value} ({count} images)" for rule, count in rules.most_common())
    return f"{known} subjects of {len(found)} images, by {said}"


class _Level(NamedTuple):
    """The level of folders that are named like people, and whether all of them count, `t1` among `t0` to `t29` too."""

    depth: int
    all_numbered: bool


def _attribute(path: Path, below: Path, level: _Level | None, patient: Callable[[Path], str | None]) -> Attribution:
    if label := bids_label(str(below)):
        return Attribution(label, Rule.BIDS)
    if found := normal_id(patient(path)):
        return Attribution(found, Rule.PATIENT)
    folders = below.parts[:-1]
    if level is not None and level.depth < len(folders):
        name = folders[level.depth]
        if level.all_numbered or not names_no_person(name):
            return Attribution(name, Rule.FOLDER)
    return attribute_path(str(below))


def _level_of_people(folders: Sequence[tuple[str, ...]]) -> _Level | None:
    """The first level of folders of whose names most are of people; None where there is none."""
    for depth in range(max(map(len, folders), default=0)):
        names = {parts[depth] for parts in folders if len(parts) > depth}
        nobody = sum(names_no_person(name) for name in names)
        alike = _numbered_alike(names) and nobody < len(names)
        if alike or nobody * 2 < len(names):
            return _Level(depth, alike)
    return None


def _numbered_alike(names: Collection[str]) -> bool:
    """Whether all names are one letter and a number: then `t1` is a person beside `t0`, and no sequence of MRI."""
    return len({name[0] for name in names}) == 1 and all(re.fullmatch(r"[A-Za-z]\d+", name) for name in names)
