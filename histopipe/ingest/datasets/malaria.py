"""NIH's thin blood films: single red cells, Giemsa-stained, with or without Plasmodium falciparum.

Rajaraman et al. 2018 (PeerJ 6:e4568). Members are named `cell_images/CLASS/PATIENT…Thin…_cell_N.png`; only the folder
gives the class. Kaggle's archive contains a second copy of all of them under `cell_images/cell_images/`.

NIH's lists name 201 patients although 200 are published, since `C47P8` was photographed through two microscopes
(`C47P8thin_Original_Motic`, `C47P8thinOriginalOlympusCX21`). What follows the patient's id says how the film was taken,
so both are one case here. At worst, two people stay in one split; as two cases, one patient could be in two splits.
"""

from __future__ import annotations

import re

from histopipe.ingest.datasets.layout import Dataset, MemberRejected, PatchName, PublishedCounts

CLASSES = ("Uninfected", "Parasitized")

_LABELS = {name.lower(): label for label, name in enumerate(CLASSES)}
# no backtracking past the first `thin`: a name of 64 kB may contain it thousands of times
_NAME = re.compile(r"(?>(?P<case>C[0-9]++[A-Za-z0-9]*?)_?[Tt]hin)[A-Za-z0-9_]*_cell_[0-9]+\.png")

_CASE = re.compile(r"(?>(?P<case>C[0-9]++[A-Za-z0-9]*?)_?[Tt]hin)[A-Za-z0-9_]*_cell_[0-9]+")


def read_name(name: str) -> PatchName | None:
    """Read the patient from a member's name and the label from its folder.

    Raises:
        MemberRejected: a PNG has another name, or its folders name no class or both.
    """
    *folders, last = name.split("/")
    if not last.lower().endswith(".png"):
        return None
    match = _NAME.fullmatch(last)
    if match is None:
        raise MemberRejected("name does not match the data set's pattern")
    labels = {_LABELS[folder.lower()] for folder in folders if folder.lower() in _LABELS}
    if len(labels) != 1:
        raise MemberRejected("folders name both classes" if labels else "folders name no class")
    return PatchName(match["case"], labels.pop())


def read_case(last: str) -> str | None:
    """Read the patient from a cell's file name, whatever its extension."""
    match = _CASE.match(last)
    return match["case"] if match else None


MALARIA = Dataset(
    name="malaria",
    title="Malaria parasites in red blood cells",
    classes=CLASSES,
    patch_size=(128, 128),  # cells measure about 76 to 178 pixels
    image_size=64,  # as in the ResNet tutorial
    read_name=read_name,
    read_case=read_case,
    resized=True,
    published=PublishedCounts(patches=27_558, cases=200, positive=13_779),
    implausible_auc=0.995,  # five folds by patient: .991 (Rajaraman et al. 2018)
    kaggle="iarunava/cell-images-for-detecting-malaria",
)
