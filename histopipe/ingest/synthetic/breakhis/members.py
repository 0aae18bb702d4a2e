"""Drawing of cases as members of an archive, with the names and folders of BreakHis."""

from __future__ import annotations

from collections import Counter

from histopipe.ingest.datasets.breakhis import CLASSES, SUBTYPES
from histopipe.ingest.synthetic.breakhis.fields import draw_fields
from histopipe.ingest.synthetic.breakhis.plan import PatientPlan, plan_cases
from histopipe.ingest.synthetic.drawing import Drawing, DrawnCase
from histopipe.ingest.synthetic.encoding import encode_png

_ROOT = "BreaKHis_v1/histology_slides/breast"


def draw_case(plan: PatientPlan) -> DrawnCase:
    """Draw the fields of view of one patient and encode them, sorted by name."""
    members = []
    numbers: Counter[tuple[str, int]] = Counter()
    for index, (magnification, pixels) in enumerate(zip(plan.magnifications, draw_fields(plan), strict=True)):
        subtype = plan.subtypes[index % len(plan.subtypes)]
        numbers[subtype, magnification] += 1
        name = _make_member_name(plan, subtype, magnification, numbers[subtype, magnification])
        members.append((name, encode_png(pixels)))
    return DrawnCase(sorted(members), plan.label * len(members), 0, nested=False)


def _make_member_name(plan: PatientPlan, subtype: str, magnification: int, number: int) -> str:
    kind = f"SOB_{'BM'[plan.label]}_{subtype}"
    slide = f"{CLASSES[plan.label]}/SOB/{SUBTYPES[subtype][0]}/{kind}_{plan.patient}/{magnification}X"
    return f"{_ROOT}/{slide}/{kind}-{plan.patient}-{magnification}-{number:03d}.png"


DRAWING = Drawing(
    plan_cases,
    draw_case,
    nested_folder=None,
    member_bytes=700_000,  # a PNG of 700x460 pixels
    patches_per_worker=30,
)
