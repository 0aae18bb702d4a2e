"""Write what is drawn to one zip."""

from __future__ import annotations

import hashlib
import math
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from histopipe.core.errors import HistopipeError
from histopipe.core.files import replaced_file, require_disk
from histopipe.core.workers import Workers, available_cores
from histopipe.ingest.synthetic.drawing import Drawing, DrawnCase
from histopipe.ingest.synthetic.drawings import drawing_of
from histopipe.ingest.synthetic.plan import SyntheticSlides

_TIMESTAMP = (2014, 3, 20, 0, 0, 0)  # any fixed one would do: the year and month Kaggle's IDC set was published
_PERMISSIONS = 0o100644 << 16  # a plain file, readable by all


def write_archive(
    path: Path,
    slides: SyntheticSlides,
    workers: int | None = None,
    progress: bool = True,
    signed: bool = False,
    check: Callable[[], object] = lambda: None,
) -> dict[str, int]:
    """Draw the slides and write them to one zip in their data set's layout, whole or not at all.

    Args:
        path: the zip to write.
        slides: what to draw; the same values give the same bytes, whatever `workers` is.
        workers: processes that draw; by default as many as there are cores and work for.
        progress: whether to show a bar on stderr.
        signed: whether its comment says who wrote it, for `is_drawn`.
        check: raises where something lies at `path`, once all is drawn, that must not be deleted.

    Returns:
        Counts of `cases`, of `patches`, and of these the `positive` and the `undersized`; `nested` counts the
        members that stand a second time in the nested folder.

    Raises:
        HistopipeError: the zip can't be written there.
    """
    if workers is not None and workers < 1:
        raise HistopipeError(f"synthetic slides: workers is {workers}; give at least 1")
    drawing = drawing_of(slides.dataset)
    plans = drawing.plan_cases(slides)
    with _explained(path):
        require_disk(path.parent, drawing.member_bytes * slides.patches, f"{path.name}: {slides.patches} patches")
        with (
            replaced_file(path, check) as beside,
            zipfile.ZipFile(beside, "w", zipfile.ZIP_STORED) as archive,
            Workers(drawing.draw_case, workers or _default_workers(slides, drawing)) as drawn,
        ):
            counts, repeated = _write_cases(archive, drawn.in_order(plans), slides.patches, progress)
            for name in repeated:  # after everything else, where they stand in Kaggle's archives too
                archive.writestr(_member(f"{drawing.nested_folder}/{name}"), archive.read(name))
            if signed:
                archive.comment = _signature(archive)
            return counts


def is_drawn(path: Path) -> bool:
    """Whether a file is a zip that `write_archive` wrote and signed, with the members that it wrote and no others."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.comment == _signature(archive)
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return False


def _signature(archive: zipfile.ZipFile) -> bytes:
    """Stands for the members' names, sizes and checksums; what is added or changed later gives another one."""
    members = ((member.filename, member.file_size, member.CRC) for member in archive.infolist())
    digest = hashlib.sha256("\n".join(map(repr, members)).encode("utf-8", "surrogateescape"))
    return b"histopipe synth " + digest.hexdigest().encode()


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        reason = problem.strerror or problem
        raise HistopipeError(f"{path} can't be written ({reason}): choose a place that can") from None


def _default_workers(slides: SyntheticSlides, drawing: Drawing) -> int:
    return min(available_cores(), slides.cases, math.ceil(slides.patches / drawing.patches_per_worker))


def _write_cases(
    archive: zipfile.ZipFile, drawn: Iterator[DrawnCase], patches: int, progress: bool
) -> tuple[dict[str, int], list[str]]:
    """Write every case once; returns the counts, and the names that are to stand in the archive again."""
    from tqdm import tqdm

    counts = Counter(cases=0, patches=0, positive=0, undersized=0, nested=0)
    repeated: list[str] = []
    with tqdm(total=patches, desc="drawing", unit="patch", disable=not progress) as bar:
        for case in drawn:
            for name, content in case.members:
                archive.writestr(_member(name), content)
            if case.nested:
                repeated += [name for name, _ in case.members]
            counts.update(cases=1, patches=len(case.members), positive=case.positive, undersized=case.undersized)
            bar.update(len(case.members))
    return dict(counts, nested=len(repeated)), repeated


def _member(name: str) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name, _TIMESTAMP)
    member.create_system = 3  # Unix, on every system: else the bytes would differ
    member.external_attr = _PERMISSIONS
    return member
