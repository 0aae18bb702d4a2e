"""Drawing of cases as members of an archive, with the names of Kaggle's IDC set."""

from __future__ import annotations

from histopipe.ingest.synthetic.drawing import Drawing, DrawnCase
from histopipe.ingest.synthetic.encoding import encode_png
from histopipe.ingest.synthetic.idc.anatomy import PATCH
from histopipe.ingest.synthetic.idc.plan import CasePlan, plan_cases
from histopipe.ingest.synthetic.idc.slides import Patch, draw_slide


def draw_case(plan: CasePlan) -> DrawnCase:
    """Draw one case and encode its patches, sorted by name."""
    members, positive, undersized = [], 0, 0
    for patch in draw_slide(plan):
        members.append((_make_member_name(plan.case_id, patch), encode_png(patch.pixels)))
        positive += patch.label
        undersized += patch.pixels.shape != (PATCH, PATCH, 3)
    return DrawnCase(sorted(members), positive, undersized, plan.nested)


def _make_member_name(case_id: str, patch: Patch) -> str:
    # Kaggle counts pixels from 1; its grid has this offset in every case
    return f"{case_id}/{patch.label}/{case_id}_idx5_x{patch.x + 1}_y{patch.y + 1}_class{patch.label}.png"


DRAWING = Drawing(
    plan_cases,
    draw_case,
    nested_folder="IDC_regular_ps50_idx5",
    member_bytes=7000,  # a PNG of 50x50 pixels and its two entries in the zip's directories
    patches_per_worker=3000,
)
