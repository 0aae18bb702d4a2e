"""BreakHis: fields of view of breast tumours at four magnifications, benign or malignant.

Spanhol et al. 2016 (doi:10.1109/TBME.2015.2496264). Members are named
`…/benign|malignant/SOB/SUBTYPE/SOB_B_A_14-22549AB/40X/SOB_B_A-14-22549AB-40-001.png`: class (B or M), subtype, year and
number of the biopsy with the letters of its blocks, magnification, number of the image.

A case is an accession number with all its blocks and magnifications; the complete set has 70. The publishers count each
id, with its letters, as a patient; `histopipe.core.cases.readings` explains why that isn't the default. They count
14-13412 twice, since it is filed as ductal and, with as many images, as lobular carcinoma: 82 patients with 81 ids.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from histopipe.core.cases.readings import Reading, accession_of
from histopipe.ingest.datasets.layout import OTHER_MAGNIFICATION, Dataset, MemberRejected, PatchName, PublishedCounts

CLASSES = ("benign", "malignant")
MAGNIFICATIONS = (40, 100, 200, 400)
SUBTYPES = {  # by the letters in names: folder, and 1 for malignant
    "A": ("adenosis", 0),
    "F": ("fibroadenoma", 0),
    "PT": ("phyllodes_tumor", 0),
    "TA": ("tubular_adenoma", 0),
    "DC": ("ductal_carcinoma", 1),
    "LC": ("lobular_carcinoma", 1),
    "MC": ("mucinous_carcinoma", 1),
    "PC": ("papillary_carcinoma", 1),
}

_PATIENTS = 82
_CASES: dict[Reading, int] = {"accession": 70, "publisher": 81}  # of the complete set, at each magnification
# From the database's page (web.inf.ufpr.br/vri); it prints 652 benign at 40X, but only 625 agree with its totals.
_PUBLISHED = {
    40: PublishedCounts(1995, _PATIENTS, 1370, _CASES["accession"]),
    100: PublishedCounts(2081, _PATIENTS, 1437, _CASES["accession"]),
    200: PublishedCounts(2013, _PATIENTS, 1390, _CASES["accession"]),
    400: PublishedCounts(1820, _PATIENTS, 1232, _CASES["accession"]),
}

# Micrometres per pixel of the published images (Spanhol et al. 2016): the camera's 6.5, objective, relay lens of 3.3.
_PIXEL_SIZES = {40: 0.49, 100: 0.20, 200: 0.10, 400: 0.05}

_LETTERS = {"B": 0, "M": 1}
_FOLDERS = {folder: letters for letters, (folder, _) in SUBTYPES.items()}
_NAME = re.compile(
    rf"SOB_(?P<label>[BM])_(?P<subtype>{'|'.join(SUBTYPES)})-(?P<case>[0-9]{{2}}-[0-9]+[A-Z]*)"
    r"-(?P<magnification>40|100|200|400)-[0-9]+\.png"
)
_CASE = re.compile(rf"SOB_[BM]_(?:{'|'.join(SUBTYPES)})-(?P<case>[0-9]{{2}}-[0-9]+[A-Z]*)-(?:40|100|200|400)-[0-9]+")
_SLIDE = re.compile(r"SOB_(?P<label>[BM])_(?P<subtype>[A-Z]+)[_-](?P<case>[0-9]{2}-[0-9]+[A-Z]*)")
_MAGNIFICATION_FOLDER = re.compile(r"(?P<magnification>40|100|200|400)[Xx]")


def read_published_name(name: str) -> PatchName | None:
    """Read the publishers' patient, class, magnification and subtype from a member's name.

    Raises:
        MemberRejected: a PNG has another name, or its name and folders contradict each other.
    """
    *folders, last = name.split("/")
    if not last.lower().endswith(".png"):
        return None
    match = _NAME.fullmatch(last)
    if match is None:
        raise MemberRejected("name does not match the data set's pattern")
    fields = match.groupdict()
    if _LETTERS[fields["label"]] != SUBTYPES[fields["subtype"]][1]:
        raise MemberRejected("subtype contradicts class")
    for folder in folders:
        for name_of_field, value in _read_folder(folder).items():
            if fields[name_of_field] != value:
                raise MemberRejected(f"{name_of_field} contradicts folder")
    attributes = (int(fields["magnification"]), fields["subtype"])
    return PatchName(fields["case"], _LETTERS[fields["label"]], attributes=attributes)


def read_name(name: str) -> PatchName | None:
    """Read accession number, class, magnification and subtype from a member's name.

    Raises:
        MemberRejected: see `read_published_name`.
    """
    patch = read_published_name(name)
    return patch and patch._replace(case_id=accession_of(patch.case_id))


def read_case(last: str) -> str | None:
    """Read the accession number from an image's file name, whatever its extension."""
    case = read_published_case(last)
    return case and accession_of(case)


def read_published_case(last: str) -> str | None:
    """Read the publishers' patient from an image's file name, whatever its extension."""
    match = _CASE.match(last)
    return match["case"] if match else None


def _read_folder(folder: str) -> dict[str, str]:
    """Read what a folder's name states about its images; empty for other folders."""
    if folder in CLASSES:
        return {"label": "BM"[CLASSES.index(folder)]}
    if folder in _FOLDERS:
        return {"subtype": _FOLDERS[folder]}
    match = _SLIDE.fullmatch(folder) or _MAGNIFICATION_FOLDER.fullmatch(folder)
    return match.groupdict() if match else {}


def select_magnification(dataset: Dataset, magnification: int) -> Dataset:
    """Return the data set reduced to the images of one magnification."""

    def read_selected(name: str) -> PatchName | None:
        patch = dataset.read_name(name)
        if patch is not None and patch.attributes[0] != magnification:
            raise MemberRejected(OTHER_MAGNIFICATION)
        return patch

    return replace(
        dataset,
        read_name=read_selected,
        published=_replace_cases(_PUBLISHED[magnification], dataset.case_reading),
        mpp=2 * _PIXEL_SIZES[magnification],  # images are stored at half the published size
    )


def change_cases(dataset: Dataset, reading: Reading) -> Dataset:
    """Return the data set with accession numbers or the publishers' patients as cases."""
    read_member, read_file_name = _READERS[reading]
    return replace(
        dataset,
        read_name=read_member,
        read_case=read_file_name,
        case_reading=reading,
        published=_replace_cases(dataset.published, reading),
    )


def _replace_cases(counts: PublishedCounts | None, reading: Reading | None) -> PublishedCounts | None:
    built_in = counts is not None and counts.distinct_cases == _CASES["accession"]
    return replace(counts, distinct_cases=_CASES[reading]) if counts and reading and built_in else counts


_READERS: dict[Reading, tuple[Callable[[str], PatchName | None], Callable[[str], str | None]]] = {
    "accession": (read_name, read_case),
    "publisher": (read_published_name, read_published_case),
}

BREAKHIS = Dataset(
    name="breakhis",
    title="Breast tumours at four magnifications",
    classes=CLASSES,
    patch_size=(230, 350),  # half of the published 460x700; some images are 456 pixels high
    image_size=224,  # as in the DenseNet201 tutorial
    read_name=read_name,
    read_case=read_case,
    resized=True,
    attributes={"magnification": "int32", "subtype": "str"},
    select_magnification=select_magnification,
    case_reading="accession",
    change_cases=change_cases,
    published=PublishedCounts(7909, _PATIENTS, 5429, _CASES["accession"]),
    kaggle="ambarish/breakhis",
)
