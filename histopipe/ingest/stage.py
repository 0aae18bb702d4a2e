"""The ingest stage: one pass over the archive."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from histopipe.core.cases.ids import named_groups
from histopipe.core.errors import ArchiveError
from histopipe.core.files import replaced_folder, require_disk, write_json
from histopipe.core.outputs.claims import remove_known
from histopipe.core.params import Params
from histopipe.core.stages.folders import stage_check
from histopipe.core.stages.inputs import require_unchanged_inputs
from histopipe.core.workers import Workers
from histopipe.core.workspace import Workspace
from histopipe.data.store import INDEX_FILE, REPORT_FILE, StoreReport
from histopipe.ingest.archives.limits import MemberLimit
from histopipe.ingest.archives.reading import Archive, open_archive
from histopipe.ingest.datasets import Dataset, MemberRejected, get_dataset, list_datasets
from histopipe.ingest.datasets.manifest import manifest_dataset
from histopipe.ingest.datasets.matching import nearest_name
from histopipe.ingest.images import decode_patch
from histopipe.ingest.packing import decode, divide, pack, shard_workers
from histopipe.ingest.parts import FILES as PART_FILES
from histopipe.ingest.parts import Part, forget_other_keys, parts_key, read_shards, write_description
from histopipe.ingest.plan import HARMLESS, NOT_A_PATCH, NOT_IN_ARCHIVE, Plan, Planned, SetAside, plan_ingest
from histopipe.ingest.report import build_report
from histopipe.ingest.shards import Shard, ShardTask
from histopipe.ingest.sources.archive_file import archive_in

MAX_INFERRED_SIDE = 256  # pixels; larger images of an own data set are shrunk unless `patch_size` says otherwise
SIZE_SAMPLE = 64


def ingest(dataset: str, params: Params, workspace: Workspace) -> StoreReport:
    """Pack a data set's archive into its store; shards that `ingest_part` left here are taken as they are.

    Returns:
        The report that is also written to `report.json`.

    Raises:
        ArchiveError: the archive can't be read, holds no patches, or too many of its members are unusable.
        HistopipeError: the disk is too full.
    """
    archive_path = archive_in(workspace.raw(dataset))
    with _decoding(dataset, params, workspace, archive_path) as (archive, described, plan, workers):
        report = _pack(archive, plan, described, params, workspace, archive_path, workers)
    remove_known(workspace.parts(dataset), [f"*/{name}" for name in PART_FILES])
    return report


def ingest_part(dataset: str, part: Part, params: Params, workspace: Workspace) -> Path:
    """Decode one part of a data set's archive, for the ingest that puts the parts together.

    Returns:
        The folder with the part's shards, the index of each and what each rejected.

    Raises:
        ArchiveError: the archive can't be read or holds no patches.
        HistopipeError: the disk is too full.
    """
    folder = parts_folder(dataset, params, workspace)
    forget_other_keys(folder)
    archive_path = archive_in(workspace.raw(dataset))
    with _decoding(dataset, params, workspace, archive_path) as (archive, described, plan, workers):
        shards = divide(plan, described)
        numbers = part.of_shards(len(shards))
        _require_room(folder, sum(len(shards[number]) for number in numbers), described)
        with replaced_folder(folder / str(part)) as beside:
            decoded = decode(archive, shards, numbers, described, beside, workers)
            bar = tqdm(decoded, f"ingest {dataset}, part {part.number} of {part.of}", len(numbers), unit="shard")
            for shard in bar:
                write_description(shard)
    return folder / str(part)


def parts_folder(dataset: str, params: Params, workspace: Workspace) -> Path:
    """Where the parts of the archive lie that is here now, decoded with these parameters and this code."""
    return workspace.parts(dataset) / parts_key(dataset, params, workspace)


def missing_parts(dataset: str, most: int, shards_per_part: int, params: Params, workspace: Workspace) -> list[Part]:
    """The parts that an archive is best divided into, without those that lie here.

    Args:
        dataset: its name.
        most: how many parts there may be.
        shards_per_part: how many shards are worth a part; an archive with fewer than two parts of them isn't divided.
        params: of the data set.
        workspace: holds the archive.

    Raises:
        ArchiveError: the archive can't be read or holds no patches.
    """
    path = archive_in(workspace.raw(dataset))
    with _collector_paused(), closing(_opened(path, params)) as archive:
        described, plan = _planned(dataset, params, workspace, archive, path)
        shards = divide(plan, described)
    count = min(most, len(shards) // shards_per_part)
    present = _present(dataset, shards, params, workspace)
    parts = [Part(number + 1, count) for number in range(count if count > 1 else 0)]
    return [part for part in parts if any(number not in present for number in part.of_shards(len(shards)))]


def _opened(path: Path, params: Params) -> Archive:
    return open_archive(path, MemberLimit(params.ingest.max_members))


@contextmanager
def _decoding(
    dataset: str, params: Params, workspace: Workspace, path: Path
) -> Iterator[tuple[Archive, Dataset, Plan, Workers[ShardTask, Shard]]]:
    """The open archive, what is in it, and the processes that decode it; those start while it is listed."""
    with _collector_paused(), shard_workers(path) as workers, closing(_opened(path, params)) as archive:
        described, plan = _planned(dataset, params, workspace, archive, path)
        yield archive, described, plan, workers


def _planned(dataset: str, params: Params, workspace: Workspace, archive: Archive, path: Path) -> tuple[Dataset, Plan]:
    described = describe(dataset, params, workspace, archive)
    plan = plan_ingest(archive.members, described)
    _require_patches(plan, described, archive, path)
    if plan.matching:  # what the archive lacks is known before anything is decoded
        _require_quality(plan.set_aside, len(plan.patches), described, params, path)
    return described, plan


def _present(
    dataset: str, shards: Sequence[Sequence[Planned]], params: Params, workspace: Workspace
) -> dict[int, Shard]:
    """Shards that lie here; the archive is read for its digest only where there may be some."""
    if not workspace.parts(dataset).exists():
        return {}
    return read_shards(parts_folder(dataset, params, workspace), shards)


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Listing makes objects by the hundred thousand, and the cycle collector would walk them again and again."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def describe(dataset: str, params: Params, workspace: Workspace, archive: Archive) -> Dataset:
    """The data set's names, classes and patch size: built in, or from the user's manifest."""
    block = params.dataset(dataset)
    size = block.patch_size
    manifest = workspace.raw(dataset) / "manifest.csv"
    if manifest.exists() or dataset not in list_datasets():
        described = manifest_dataset(dataset, manifest, size or (1, 1))
        return described if size else replace(described, patch_size=_usual_size(archive, described))
    built_in = get_dataset(dataset, block.magnification, block.case)
    return replace(built_in, patch_size=size) if size else built_in


def _usual_size(archive: Archive, dataset: Dataset) -> tuple[int, int]:
    """Median height and width of the first patches of a data set that doesn't declare its size."""
    first = [planned.member for planned in plan_ingest(archive.members, dataset).patches[:SIZE_SAMPLE]]
    sizes = []
    for payload in archive.payloads(first):
        try:
            sizes.append(decode_patch(payload()).shape[:2])
        except MemberRejected:
            continue
    if not sizes:
        return 1, 1  # nothing can be read, which packing will say better
    height, width = np.minimum(np.median(sizes, axis=0), MAX_INFERRED_SIDE).astype(int)
    return int(height), int(width)


def _pack(
    archive: Archive,
    plan: Plan,
    dataset: Dataset,
    params: Params,
    workspace: Workspace,
    path: Path,
    workers: Workers[ShardTask, Shard],
) -> StoreReport:
    folder = workspace.store(dataset.name)
    planned = len(plan.patches)
    _require_room(folder, planned, dataset)
    shards = divide(plan, dataset)
    present = _present(dataset.name, shards, params, workspace)
    if present:
        print(f"{dataset.name}: {len(present)} of {len(shards)} shards were decoded before", flush=True)
    with replaced_folder(folder, stage_check("ingest")) as beside:
        index = pack(archive, shards, present, plan.set_aside, dataset, beside, workers)
        index.to_parquet(beside / INDEX_FILE, index=False)
        report = build_report(dataset, index, plan.set_aside, len(archive.members), plan.matching)
        _require_quality(plan.set_aside, len(index), dataset, params, path)
        _require_complete(dataset, params, workspace, index, path)
        write_json(beside / REPORT_FILE, report)
        require_unchanged_inputs()
    if report["look_alike_cases"]:
        print(
            f"{dataset.name}: case ids that look alike: {named_groups(report['look_alike_cases'])}: where two are one "
            f"case, give them one id (all of them: {folder / REPORT_FILE})",
            flush=True,
        )
    return report


def _require_room(folder: Path, patches: int, dataset: Dataset) -> None:
    require_disk(folder, int(1.05 * patches * np.prod(dataset.patch_size) * 3), f"the store of {patches:,} patches")


def _require_patches(plan: Plan, dataset: Dataset, archive: Archive, path: Path) -> None:
    if not archive.members:
        raise ArchiveError(f"{path} holds no files: get the archive again")
    if not plan.patches:
        reasons = ", ".join(f"{len(files)} x {reason}" for reason, files in plan.set_aside.files.items())
        example, correction = _told_of_manifest(plan.set_aside, dataset)
        raise ArchiveError(
            f"{path} holds no patches ({reasons}{example}): {correction}is it the right archive for this data set?"
        )


def _require_quality(set_aside: SetAside, patches: int, dataset: Dataset, params: Params, path: Path) -> None:
    # of everything that was meant to be a patch; other files and second copies don't count
    meant = patches + set_aside.bad
    if set_aside.bad > params.ingest.max_bad * meant or patches == 0:
        reasons = {reason: files for reason, files in sorted(set_aside.files.items()) if reason not in HARMLESS}
        listed = ", ".join(f"{len(files)} x {reason}" for reason, files in reasons.items())
        example, correction = _told_of_manifest(set_aside, dataset)
        example = example or f"; for example {next(iter(reasons.values()))[0]!r}"
        raise ArchiveError(
            f"{path}: {set_aside.bad} of {meant} members are unusable ({listed}{example}), more than "
            f"ingest.max_bad = {params.ingest.max_bad:g} allows: {correction}get the archive again or raise the limit"
        )


def _told_of_manifest(set_aside: SetAside, dataset: Dataset) -> tuple[str, str]:
    """What messages say of a manifest's name that the archive lacks: what was wanted, what is there, what to do."""
    missing = set_aside.files.get(NOT_IN_ARCHIVE)
    if not missing:
        return "", ""
    nearest = nearest_name(missing[0], set_aside.files.get(NOT_A_PATCH, []))
    there = f", where the archive has {nearest!r}" if nearest else ""
    return f"; for example {missing[0]!r}{there}", f"correct the column file of {dataset.manifest}, "


def _require_complete(dataset: Dataset, params: Params, workspace: Workspace, index: pd.DataFrame, path: Path) -> None:
    """Compare with the published counts where the source says that it is the whole set."""
    source = params.dataset(dataset.name)
    claims = source.complete or source.source == "kaggle"
    if not claims or dataset.published is None:
        return
    patches, cases, positive = len(index), index["case_id"].nunique(), int(index["label"].sum())
    published = dataset.published
    same_cases = cases in (published.cases, published.distinct_cases)
    if (patches, positive) != (published.patches, published.positive) or not same_cases:
        raise ArchiveError(
            f"{path} is not the complete set: {patches:,} patches, {cases} cases, {positive:,} positive, but "
            f"{published.patches:,}, {published.cases}, {published.positive:,} were published: get the archive again"
        )
