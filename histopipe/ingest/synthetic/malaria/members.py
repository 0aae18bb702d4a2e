"""Drawing of cases as members of an archive, with the names of NIH's malaria set."""

from __future__ import annotations

from histopipe.ingest.synthetic.drawing import Drawing, DrawnCase
from histopipe.ingest.synthetic.encoding import encode_png
from histopipe.ingest.synthetic.malaria.cells import draw_cells
from histopipe.ingest.synthetic.malaria.plan import DonorPlan, plan_cases

_FOLDERS = ("Uninfected", "Parasitized")
_PHOTOGRAPHS = 5  # of each film


def draw_case(plan: DonorPlan) -> DrawnCase:
    """Draw one donor's cells and encode them, sorted by name."""
    members = []
    for number, (label, pixels) in enumerate(draw_cells(plan)):
        members.append((f"cell_images/{_FOLDERS[label]}/{_make_file_name(plan, number)}", encode_png(pixels)))
    return DrawnCase(sorted(members), plan.positives, 0, plan.nested)


def _make_file_name(plan: DonorPlan, number: int) -> str:
    photograph = number % _PHOTOGRAPHS
    prefix = plan.prefixes[photograph % len(plan.prefixes)]
    day = 1 + plan.seed[1] % 28
    return f"{prefix}_IMG_201509{day:02d}_1441{photograph:02d}_cell_{number // _PHOTOGRAPHS + 1}.png"


DRAWING = Drawing(
    plan_cases,
    draw_case,
    nested_folder="cell_images",
    member_bytes=50_000,  # a PNG of 178x178 pixels, as large as cells get, and its entries in the zip's directories
    patches_per_worker=1000,
)
