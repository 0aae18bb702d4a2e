"""Writing of synthetic slides to one zip."""

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
from histopipe.core.processes import Workers, available_cores
from histopipe.ingest.synthetic.drawing import Drawing, DrawnCase
from histopipe.ingest.synthetic.drawings import get_drawing
from histopipe.ingest.synthetic.plan import SyntheticSlides

_TIMESTAMP = (
    2014,
    3,
    20,
    0,
    0,
    0,
)  # any fixed time would do; this is the month in which Kaggle's IDC set was published
_PERMISSIONS = 0o100644 << 16  # a plain file, readable by all


def write_archive(
    path: Path,
    slides: SyntheticSlides,
    workers: int | None = None,
    progress: bool = True,
    signed: bool = False,
    check: Callable[[], object] = lambda: None,
) -> dict[str, int]:
    """Draw slides and write them to one zip in the layout of their data set, completely or not at all.

    Args:
        path: path of the zip.
        slides: what to draw. The same values give the same bytes for any number of workers.
        workers: number of drawing processes; by default one per core, fewer for few slides.
        progress: whether to show a progress bar on stderr.
        signed: whether to write the signature that `is_synthetic_archive` checks into the zip's comment.
        check: called before the finished zip replaces `path`; raises if the file there must not be replaced.

    Returns:
        Numbers of `cases` and of `patches`, and how many patches are `positive` and `undersized`; `nested` counts the
        second copies in the nested folder.

    Raises:
        HistopipeError: the zip can't be written.

    Example:
        >>> write_archive(Path("idc.zip"), SyntheticSlides(cases=12, patches=300), progress=False)["patches"]
        300
    """
    if workers is not None and workers < 1:
        raise HistopipeError(f"synthetic slides: workers is {workers}; give at least 1")
    drawing = get_drawing(slides.dataset)
    plans = drawing.plan_cases(slides)
    with _translate_errors(path):
        require_disk(path.parent, drawing.member_bytes * slides.patches, f"{path.name}: {slides.patches} patches")
        with (
            replaced_file(path, check) as new_file,
            zipfile.ZipFile(new_file, "w", zipfile.ZIP_STORED) as archive,
            Workers(drawing.draw_case, workers or _choose_workers(slides, drawing)) as drawn,
        ):
            counts, repeated = _write_cases(archive, drawn.in_order(plans), slides.patches, progress)
            for name in repeated:  # after everything else, as in Kaggle's archives
                archive.writestr(_make_entry(f"{drawing.nested_folder}/{name}"), archive.read(name))
            if signed:
                archive.comment = _compute_signature(archive)
            return counts


def is_synthetic_archive(path: Path) -> bool:
    """Return whether a file is a zip that `write_archive` signed and that hasn't been changed since."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.comment == _compute_signature(archive)
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return False


def _compute_signature(archive: zipfile.ZipFile) -> bytes:
    """Compute the signature of the members' names, sizes and checksums; any later change gives another one."""
    members = ((member.filename, member.file_size, member.CRC) for member in archive.infolist())
    digest = hashlib.sha256("\n".join(map(repr, members)).encode("utf-8", "surrogateescape"))
    return b"histopipe synth " + digest.hexdigest().encode()


@contextmanager
def _translate_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        reason = problem.strerror or problem
        raise HistopipeError(f"{path} can't be written ({reason}): choose another path") from None


def _choose_workers(slides: SyntheticSlides, drawing: Drawing) -> int:
    return min(available_cores(), slides.cases, math.ceil(slides.patches / drawing.patches_per_worker))


def _write_cases(
    archive: zipfile.ZipFile, drawn: Iterator[DrawnCase], patches: int, progress: bool
) -> tuple[dict[str, int], list[str]]:
    """Write every case once.

    Returns:
        The counts of `write_archive`, and the names of the members to write a second time.
    """
    from tqdm import tqdm

    counts = Counter(cases=0, patches=0, positive=0, undersized=0, nested=0)
    repeated: list[str] = []
    with tqdm(total=patches, desc="drawing", unit="patch", disable=not progress) as bar:
        for case in drawn:
            for name, content in case.members:
                archive.writestr(_make_entry(name), content)
            if case.nested:
                repeated += [name for name, _ in case.members]
            counts.update(cases=1, patches=len(case.members), positive=case.positive, undersized=case.undersized)
            bar.update(len(case.members))
    return dict(counts, nested=len(repeated)), repeated


def _make_entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _TIMESTAMP)
    entry.create_system = 3  # Unix, also on other systems: otherwise the bytes would differ
    entry.external_attr = _PERMISSIONS
    return entry
