"""The ingest stage: one pass over the archive, of the whole or of one part."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from histopipe.core.cases.ids import describe_groups
from histopipe.core.errors import ArchiveError
from histopipe.core.files import replaced_folder, require_disk, write_json
from histopipe.core.outputs.claims import remove_own_folder
from histopipe.core.params import Params
from histopipe.core.processes import Workers
from histopipe.core.stages.folders import stage_check
from histopipe.core.stages.inputs import require_unchanged_inputs
from histopipe.core.workspace import Workspace
from histopipe.data.store import INDEX_FILE, REPORT_FILE, StoreRecord
from histopipe.ingest.archives.limits import MemberLimit
from histopipe.ingest.archives.reading import Archive, open_archive
from histopipe.ingest.datasets import Dataset, MemberRejected, get_dataset, list_datasets
from histopipe.ingest.datasets.manifest import load_manifest_dataset
from histopipe.ingest.datasets.matching import find_nearest_name
from histopipe.ingest.images import decode_patch
from histopipe.ingest.packing import assign_shards, decode, make_workers, pack
from histopipe.ingest.parts import FILES as PART_FILES
from histopipe.ingest.parts import Part, compute_parts_key, forget_other_keys, read_shards, write_description
from histopipe.ingest.plan import HARMLESS, NOT_A_PATCH, NOT_IN_ARCHIVE, Plan, PlannedPatch, UnusedMembers, plan_ingest
from histopipe.ingest.report import build_report
from histopipe.ingest.shards import Shard, ShardTask
from histopipe.ingest.sources.archive_file import find_archive

MAX_INFERRED_SIDE = 256  # pixels; larger images of a data set with a manifest are shrunk if `patch_size` isn't set
SIZE_SAMPLE = 64  # images by which the size is inferred


def ingest(dataset: str, params: Params, workspace: Workspace) -> StoreRecord:
    """Pack a data set's archive into its store, using shards that `ingest_part` has already decoded.

    Args:
        dataset: name of the data set.
        params: the parameters in `params.yaml`.
        workspace: paths of the archive and the store.

    Returns:
        The content of `report.json`.

    Raises:
        ArchiveError: the archive can't be read, has no patches, or has too many unusable members.
        HistopipeError: the disk is too full.

    Example:
        >>> report = ingest("idc", read_params(workspace.params), workspace)
        >>> report["patches"], report["cases"]
        (277524, 279)
    """
    archive_path = find_archive(workspace.raw(dataset))
    with _open_for_decoding(dataset, params, workspace, archive_path) as (archive, definition, plan, workers):
        report = _pack(archive, plan, definition, params, workspace, archive_path, workers)
    remove_own_folder(workspace.parts(dataset), [f"*/{name}" for name in PART_FILES])
    return report


def ingest_part(dataset: str, part: Part, params: Params, workspace: Workspace) -> Path:
    """Decode one part of a data set's archive, for the ingest that puts the parts together.

    Args:
        dataset: name of the data set.
        part: the part to decode.
        params: the parameters in `params.yaml`.
        workspace: paths of the archive and the parts.

    Returns:
        The folder with the part's shards, and the index and rejected members of each.

    Raises:
        ArchiveError: the archive can't be read or has no patches.
        HistopipeError: the disk is too full.
    """
    folder = get_parts_folder(dataset, params, workspace)
    forget_other_keys(folder)
    archive_path = find_archive(workspace.raw(dataset))
    with _open_for_decoding(dataset, params, workspace, archive_path) as (archive, definition, plan, workers):
        shards = assign_shards(plan, definition)
        numbers = part.list_shards(len(shards))
        _require_disk(folder, sum(len(shards[number]) for number in numbers), definition)
        with replaced_folder(folder / str(part)) as new_folder:
            decoded = decode(archive, shards, numbers, definition, new_folder, workers)
            bar = tqdm(decoded, f"ingest {dataset}, part {part.number} of {part.of}", len(numbers), unit="shard")
            for shard in bar:
                write_description(shard)
    return folder / str(part)


def get_parts_folder(dataset: str, params: Params, workspace: Workspace) -> Path:
    """Return the folder for parts of the current archive, decoded with these parameters and this code."""
    return workspace.parts(dataset) / compute_parts_key(dataset, params, workspace)


def list_missing_parts(
    dataset: str, limit: int, shards_per_part: int, params: Params, workspace: Workspace
) -> list[Part]:
    """Choose how many parts to divide an archive into, and list the parts that aren't decoded yet.

    Args:
        dataset: name of the data set.
        limit: maximum number of parts.
        shards_per_part: minimum number of shards in a part. An archive with fewer than twice as many isn't divided.
        params: the parameters in `params.yaml`.
        workspace: paths of the archive and the parts.

    Raises:
        ArchiveError: the archive can't be read or has no patches.
    """
    path = find_archive(workspace.raw(dataset))
    with _pause_collector(), closing(_open(path, params)) as archive:
        definition, plan = _plan(dataset, params, workspace, archive, path)
        shards = assign_shards(plan, definition)
    count = min(limit, len(shards) // shards_per_part)
    present = _read_decoded(dataset, shards, params, workspace)
    parts = [Part(number + 1, count) for number in range(count if count > 1 else 0)]
    return [part for part in parts if any(number not in present for number in part.list_shards(len(shards)))]


def _open(path: Path, params: Params) -> Archive:
    return open_archive(path, MemberLimit(params.ingest.max_members))


@contextmanager
def _open_for_decoding(
    dataset: str, params: Params, workspace: Workspace, path: Path
) -> Iterator[tuple[Archive, Dataset, Plan, Workers[ShardTask, Shard]]]:
    """Open and plan an archive while the worker processes start, and close both at the end."""
    with _pause_collector(), make_workers(path) as workers, closing(_open(path, params)) as archive:
        definition, plan = _plan(dataset, params, workspace, archive, path)
        yield archive, definition, plan, workers


def _plan(dataset: str, params: Params, workspace: Workspace, archive: Archive, path: Path) -> tuple[Dataset, Plan]:
    definition = define_dataset(dataset, params, workspace, archive)
    plan = plan_ingest(archive.members, definition)
    _require_patches(plan, definition, archive, path)
    if plan.matching:  # with a manifest, missing images are known before anything is decoded
        _require_quality(plan.unused, len(plan.patches), definition, params, path)
    return definition, plan


def _read_decoded(
    dataset: str, shards: Sequence[Sequence[PlannedPatch]], params: Params, workspace: Workspace
) -> dict[int, Shard]:
    """Read the shards that are already decoded; the archive's digest is computed only if there may be some."""
    if not workspace.parts(dataset).exists():
        return {}
    return read_shards(get_parts_folder(dataset, params, workspace), shards)


@contextmanager
def _pause_collector() -> Iterator[None]:
    """Disable the cycle collector, which would traverse the hundreds of thousands of listed members repeatedly."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def define_dataset(dataset: str, params: Params, workspace: Workspace, archive: Archive) -> Dataset:
    """Return the definition of a data set: the built-in one, or one made from the user's manifest."""
    block = params.dataset(dataset)
    size = block.patch_size
    manifest = workspace.raw(dataset) / "manifest.csv"
    if manifest.exists() or dataset not in list_datasets():
        definition = load_manifest_dataset(dataset, manifest, size or (1, 1))
        return definition if size else replace(definition, patch_size=_infer_size(archive, definition))
    built_in = get_dataset(dataset, block.magnification, block.case)
    return replace(built_in, patch_size=size) if size else built_in


def _infer_size(archive: Archive, dataset: Dataset) -> tuple[int, int]:
    """Compute the median height and width of the first patches, for a data set without `patch_size`."""
    first = [patch.member for patch in plan_ingest(archive.members, dataset).patches[:SIZE_SAMPLE]]
    sizes = []
    for payload in archive.payloads(first):
        try:
            sizes.append(decode_patch(payload()).shape[:2])
        except MemberRejected:
            continue
    if not sizes:
        return 1, 1  # no image can be read; packing reports why
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
) -> StoreRecord:
    folder = workspace.store(dataset.name)
    count = len(plan.patches)
    _require_disk(folder, count, dataset)
    shards = assign_shards(plan, dataset)
    present = _read_decoded(dataset.name, shards, params, workspace)
    if present:
        print(f"{dataset.name}: {len(present)} of {len(shards)} shards were decoded before", flush=True)
    with replaced_folder(folder, stage_check("ingest")) as new_folder:
        index = pack(archive, shards, present, plan.unused, dataset, new_folder, workers)
        index.to_parquet(new_folder / INDEX_FILE, index=False)
        report = build_report(dataset, index, plan.unused, len(archive.members), plan.matching)
        _require_quality(plan.unused, len(index), dataset, params, path)
        _require_complete(dataset, params, workspace, index, path)
        write_json(new_folder / REPORT_FILE, report)
        require_unchanged_inputs()
    if report["look_alike_cases"]:
        print(
            f"{dataset.name}: case ids that look alike: {describe_groups(report['look_alike_cases'])}: if two are one "
            f"case, give them one id (complete list: {folder / REPORT_FILE})",
            flush=True,
        )
    return report


def _require_disk(folder: Path, patches: int, dataset: Dataset) -> None:
    require_disk(folder, int(1.05 * patches * np.prod(dataset.patch_size) * 3), f"the store of {patches:,} patches")


def _require_patches(plan: Plan, dataset: Dataset, archive: Archive, path: Path) -> None:
    if not archive.members:
        raise ArchiveError(f"{path} contains no files: download the archive again")
    if not plan.patches:
        reasons = ", ".join(f"{len(files)} x {reason}" for reason, files in plan.unused.files.items())
        example, correction = _make_missing_file_hints(plan.unused, dataset)
        raise ArchiveError(
            f"{path} contains no patches ({reasons}{example}): {correction}is it the right archive for this data set?"
        )


def _require_quality(unused: UnusedMembers, patches: int, dataset: Dataset, params: Params, path: Path) -> None:
    # the share of what should have been a patch; other files and second copies don't count
    total = patches + unused.bad_count
    if unused.bad_count > params.ingest.max_bad * total or patches == 0:
        reasons = {reason: files for reason, files in sorted(unused.files.items()) if reason not in HARMLESS}
        counts = ", ".join(f"{len(files)} x {reason}" for reason, files in reasons.items())
        example, correction = _make_missing_file_hints(unused, dataset)
        example = example or f"; for example {next(iter(reasons.values()))[0]!r}"
        raise ArchiveError(
            f"{path}: {unused.bad_count} of {total} members are unusable ({counts}{example}), more than "
            f"ingest.max_bad = {params.ingest.max_bad:g} allows: {correction}download the archive again or raise "
            "the limit"
        )


def _make_missing_file_hints(unused: UnusedMembers, dataset: Dataset) -> tuple[str, str]:
    """Return an example of a listed file that the archive lacks, and the advice to correct the manifest."""
    missing = unused.files.get(NOT_IN_ARCHIVE)
    if not missing:
        return "", ""
    nearest = find_nearest_name(missing[0], unused.files.get(NOT_A_PATCH, []))
    alternative = f", where the archive has {nearest!r}" if nearest else ""
    return f"; for example {missing[0]!r}{alternative}", f"correct the column file of {dataset.manifest}, "


def _require_complete(dataset: Dataset, params: Params, workspace: Workspace, index: pd.DataFrame, path: Path) -> None:
    """Check the counts against the published ones if the source claims to be the complete data set."""
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
            f"{published.patches:,}, {published.cases}, {published.positive:,} were published: download it again"
        )
