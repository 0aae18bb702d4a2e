"""BreakHis: fields of breast tumours at four magnifications, benign or malignant.

Spanhol et al. 2016 (doi:10.1109/TBME.2015.2496264). Members are called
`…/benign|malignant/SOB/SUBTYPE/SOB_B_A_14-22549AB/40X/SOB_B_A-14-22549AB-40-001.png`: class (B or M), subtype, year and
number of the biopsy with the letters of its blocks, magnification, number of the image.

A case is an accession number, with all its blocks and magnifications: 70 in a complete set. The publishers count each
id with its letters as a patient (`histopipe.core.cases.readings` says why that isn't the default), and 14-13412 twice,
which is filed as ductal and again, with as many images, as lobular carcinoma: 82 patients of 81 ids.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from histopipe.core.cases.readings import Reading, accession_of
from histopipe.ingest.datasets.layout import OTHER_MAGNIFICATION, Dataset, MemberRejected, PatchName, PublishedCounts

CLASSES = ("benign", "malignant")
MAGNIFICATIONS = (40, 100, 200, 400)
SUBTYPES = {  # by the letters in names: the folder, and whether it is malignant
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
_CASES: dict[Reading, int] = {"accession": 70, "publisher": 81}  # of a complete set, at each magnification
# Of the database's own page (web.inf.ufpr.br/vri); it prints 652 benign at 40X, but 625 add up to its totals.
_PUBLISHED = {
    40: PublishedCounts(1995, _PATIENTS, 1370, _CASES["accession"]),
    100: PublishedCounts(2081, _PATIENTS, 1437, _CASES["accession"]),
    200: PublishedCounts(2013, _PATIENTS, 1390, _CASES["accession"]),
    400: PublishedCounts(1820, _PATIENTS, 1232, _CASES["accession"]),
}

# Micrometres, of the published images (Spanhol et al. 2016): the camera's 6.5 by objective and a relay lens of 3.3.
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
        MemberRejected: a PNG with another name, or whose name or folders contradict each other.
    """
    *folders, last = name.split("/")
    if not last.lower().endswith(".png"):
        return None
    match = _NAME.fullmatch(last)
    if match is None:
        raise MemberRejected("name is not a patch's")
    told = match.groupdict()
    if _LETTERS[told["label"]] != SUBTYPES[told["subtype"]][1]:
        raise MemberRejected("subtype contradicts class")
    for folder in folders:
        for what, value in _told_by(folder).items():
            if told[what] != value:
                raise MemberRejected(f"{what} contradicts folder")
    return PatchName(told["case"], _LETTERS[told["label"]], attributes=(int(told["magnification"]), told["subtype"]))


def read_name(name: str) -> PatchName | None:
    """Read accession number, class, magnification and subtype from a member's name.

    Raises:
        MemberRejected: as `read_published_name`.
    """
    patch = read_published_name(name)
    return patch and patch._replace(case_id=accession_of(patch.case_id))


def read_case(last: str) -> str | None:
    """Read the accession number from an image's own name, whatever its ending."""
    case = read_published_case(last)
    return case and accession_of(case)


def read_published_case(last: str) -> str | None:
    """Read the publishers' patient from an image's own name, whatever its ending."""
    match = _CASE.match(last)
    return match["case"] if match else None


def _told_by(folder: str) -> dict[str, str]:
    """What a folder's name says of the images in it; nothing for other folders."""
    if folder in CLASSES:
        return {"label": "BM"[CLASSES.index(folder)]}
    if folder in _FOLDERS:
        return {"subtype": _FOLDERS[folder]}
    match = _SLIDE.fullmatch(folder) or _MAGNIFICATION_FOLDER.fullmatch(folder)
    return match.groupdict() if match else {}


def at_magnification(dataset: Dataset, magnification: int) -> Dataset:
    """Return the images taken at one magnification; the others are set aside."""

    def read_chosen(name: str) -> PatchName | None:
        patch = dataset.read_name(name)
        if patch is not None and patch.attributes[0] != magnification:
            raise MemberRejected(OTHER_MAGNIFICATION)
        return patch

    return replace(
        dataset,
        read_name=read_chosen,
        published=_with_cases(_PUBLISHED[magnification], dataset.case_reading),
        mpp=2 * _PIXEL_SIZES[magnification],  # stored at half the published size
    )


def with_cases(dataset: Dataset, reading: Reading) -> Dataset:
    """Return the data set with accession numbers or the publishers' patients for cases."""
    read_image, read_last = _READERS[reading]
    return replace(
        dataset,
        read_name=read_image,
        read_case=read_last,
        case_reading=reading,
        published=_with_cases(dataset.published, reading),
    )


def _with_cases(counts: PublishedCounts | None, reading: Reading | None) -> PublishedCounts | None:
    own = counts is not None and counts.distinct_cases == _CASES["accession"]
    return replace(counts, distinct_cases=_CASES[reading]) if counts and reading and own else counts


_READERS: dict[Reading, tuple[Callable[[str], PatchName | None], Callable[[str], str | None]]] = {
    "accession": (read_name, read_case),
    "publisher": (read_published_name, read_published_case),
}

BREAKHIS = Dataset(
    name="breakhis",
    title="Breast tumours at four magnifications",
    classes=CLASSES,
    patch_size=(230, 350),  # half of the published 460x700; some images are 456 pixels high
    image_size=224,  # as the DenseNet201 tutorial has it
    read_name=read_name,
    read_case=read_case,
    resized=True,
    attributes={"magnification": "int32", "subtype": "str"},
    at_magnification=at_magnification,
    case_reading="accession",
    with_cases=with_cases,
    published=PublishedCounts(7909, _PATIENTS, 5429, _CASES["accession"]),
    kaggle="ambarish/breakhis",
)
