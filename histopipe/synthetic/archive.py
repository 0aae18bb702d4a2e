"""Name the patches as Kaggle does and write them to one zip."""

from __future__ import annotations

import math
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from histopipe.errors import HistopipeError
from histopipe.files import replaced_file, require_disk
from histopipe.synthetic.anatomy import PATCH
from histopipe.synthetic.plan import CasePlan, SyntheticSlides, plan_cases
from histopipe.synthetic.slides import Patch, draw_slide
from histopipe.workers import Workers, available_cores

NESTED_FOLDER = "IDC_regular_ps50_idx5"

_TIMESTAMP = (2014, 3, 20, 0, 0, 0)  # any fixed one would do: the year and month Kaggle's set was published
_PERMISSIONS = 0o100644 << 16  # a plain file, readable by all
_MEMBER_BYTES = 7000  # a PNG of 50x50 pixels and its two entries in the zip's directories, rounded up
_PATCHES_PER_WORKER = 3000  # about as many as are drawn while another process starts


@dataclass(frozen=True)
class DrawnCase:
    """One case ready to be written: members by name, and what was counted while they were drawn."""

    members: list[tuple[str, bytes]]
    positive: int
    undersized: int
    nested: bool


def write_archive(
    path: Path, slides: SyntheticSlides, workers: int | None = None, progress: bool = True
) -> dict[str, int]:
    """Draw the slides and write them to one zip in Kaggle's layout, whole or not at all.

    Args:
        path: the zip to write.
        slides: what to draw; the same values give the same bytes, whatever `workers` is.
        workers: processes that draw; by default as many as there are cores and work for.
        progress: whether to show a bar on stderr.

    Returns:
        Counts of `cases`, of `patches`, and of these the `positive` and the `undersized`; `nested` counts the
        members that stand a second time in the nested folder.

    Raises:
        HistopipeError: the zip can't be written there.
    """
    if workers is not None and workers < 1:
        raise HistopipeError(f"synthetic slides: workers is {workers}; give at least 1")
    plans = plan_cases(slides)
    with _explained(path):
        require_disk(path.parent, _MEMBER_BYTES * slides.patches, f"{path.name}: {slides.patches} patches")
        with (
            replaced_file(path) as beside,
            zipfile.ZipFile(beside, "w", zipfile.ZIP_STORED) as archive,
            Workers(draw_case, workers or _default_workers(slides)) as drawing,
        ):
            return _write_members(archive, drawing.in_order(plans), slides, progress)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        reason = problem.strerror or problem
        raise HistopipeError(f"{path} can't be written ({reason}): choose a place that can") from None


def _default_workers(slides: SyntheticSlides) -> int:
    return min(available_cores(), slides.cases, math.ceil(slides.patches / _PATCHES_PER_WORKER))


def _write_members(
    archive: zipfile.ZipFile, drawn: Iterator[DrawnCase], slides: SyntheticSlides, progress: bool
) -> dict[str, int]:
    from tqdm import tqdm

    counts = Counter(cases=0, patches=0, positive=0, undersized=0, nested=0)
    repeated: list[str] = []
    with tqdm(total=slides.patches, desc="drawing", unit="patch", disable=not progress) as bar:
        for case in drawn:
            for name, content in case.members:
                archive.writestr(_member(name), content)
            if case.nested:
                repeated += [name for name, _ in case.members]
            counts.update(cases=1, patches=len(case.members), positive=case.positive, undersized=case.undersized)
            bar.update(len(case.members))
    for name in repeated:  # after everything else, where they stand in Kaggle's archive too
        archive.writestr(_member(f"{NESTED_FOLDER}/{name}"), archive.read(name))
    return dict(counts, nested=len(repeated))


def _member(name: str) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name, _TIMESTAMP)
    member.create_system = 3  # Unix, on every system: else the bytes would differ
    member.external_attr = _PERMISSIONS
    return member


def draw_case(plan: CasePlan) -> DrawnCase:
    """Draw one case and encode its patches, sorted by name."""
    members, positive, undersized = [], 0, 0
    for patch in draw_slide(plan):
        members.append((_name(plan.case_id, patch), _encoded(patch)))
        positive += patch.label
        undersized += patch.pixels.shape != (PATCH, PATCH, 3)
    return DrawnCase(sorted(members), positive, undersized, plan.nested)


def _name(case_id: str, patch: Patch) -> str:
    # Kaggle counts pixels from 1, and its grid has this offset in every case.
    return f"{case_id}/{patch.label}/{case_id}_idx5_x{patch.x + 1}_y{patch.y + 1}_class{patch.label}.png"


def _encoded(patch: Patch) -> bytes:
    import imagecodecs

    # Noise has nothing to match: Huffman codes alone are a third faster than level 1 and 8 % smaller.
    options = {"strategy": imagecodecs.PNG.STRATEGY.HUFFMAN_ONLY, "filter": imagecodecs.PNG.FILTER.PAETH}
    return bytes(imagecodecs.png_encode(patch.pixels, level=1, **options))
