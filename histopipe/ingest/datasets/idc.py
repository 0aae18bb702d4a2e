"""Kaggle's breast-histopathology archive: 50-px patches of whole mounts, with or without invasive ductal carcinoma.

Cruz-Roa et al. 2014 (doi:10.1117/12.2043872), Janowczyk & Madabhushi 2016 (PMID 27563488).
Members are named `CASE/LABEL/CASE_idx5_xX_yY_classLABEL.png`; the archive contains a second copy of all of them
under `IDC_regular_ps50_idx5/`. The 279 case ids are not proven to be 279 patients.
"""

from __future__ import annotations

import re

from histopipe.ingest.datasets.layout import Dataset, MemberRejected, PatchName, PublishedCounts

# at most nine digits of pixels, since the index stores positions as 32-bit integers
_NAME = re.compile(r"(?P<case>[A-Za-z0-9-]+)_idx[0-9]+_x(?P<x>[0-9]{1,9})_y(?P<y>[0-9]{1,9})_class(?P<label>[01])\.png")

_CASE = re.compile(r"(?P<case>[A-Za-z0-9-]+)_idx[0-9]+_x[0-9]+_y[0-9]+")


def read_name(name: str) -> PatchName | None:
    """Read case, coordinates and label from a member's name.

    Raises:
        MemberRejected: a PNG has another name, or its folders contradict its name.
    """
    folders, _, last = name.rpartition("/")
    match = _NAME.fullmatch(last)
    if match is None:
        if last.lower().endswith(".png"):
            raise MemberRejected("name does not match the data set's pattern")
        return None
    case, x, y, label = match.groups()
    _check_folders(folders, case, label)
    return PatchName(case, int(label), int(x), int(y))


def read_case(last: str) -> str | None:
    """Read the case from a patch's file name, which may lack the label."""
    match = _CASE.match(last)
    return match["case"] if match else None


def _check_folders(folders: str, case: str, label: str) -> None:
    """Check that a patch in the folder of a class is in that of its own label and case."""
    outer, _, inner = folders.rpartition("/")
    if inner not in ("0", "1"):
        return
    if inner != label:
        raise MemberRejected("label contradicts folder")
    if outer and outer.rpartition("/")[2] != case:
        raise MemberRejected("case contradicts folder")


IDC = Dataset(
    name="idc",
    title="Invasive ductal carcinoma, 50-px patches",
    classes=("benign", "IDC"),
    patch_size=(50, 50),
    image_size=48,  # as in the CancerNet tutorial; 50 can't be halved often
    read_name=read_name,
    read_case=read_case,
    published=PublishedCounts(patches=277_524, cases=279, positive=78_786),
    mpp=4.0,  # scanned at 40x (0.25 um), downsampled 16:1 to 2.5x (Cruz-Roa et al. 2014)
    implausible_auc=0.97,  # by case, several architectures reach .93 to .96
    kaggle="paultimothymooney/breast-histopathology-images",
)
