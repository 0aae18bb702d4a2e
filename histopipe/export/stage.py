"""The command: one file, measured before it is written."""

from __future__ import annotations

import platform
import shutil
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histopipe import __version__
from histopipe.core.errors import ExportError, HistopipeError, one_line
from histopipe.core.files import file_digest, format_json, replaced_file, write_json
from histopipe.core.locking import locked_file
from histopipe.core.outputs.claims import OutputFiles, claim_path, text_digest
from histopipe.core.params import Params
from histopipe.core.workers import available_cores
from histopipe.core.workspace import Workspace
from histopipe.data.store import PatchStore
from histopipe.evaluation.cases import joined_cases
from histopipe.export.formats import FORMATS
from histopipe.export.latency import BATCHES, latency
from histopipe.export.mlflow_run import log_export
from histopipe.export.origin import Origin, address_of, origin_of
from histopipe.export.parity import answers, parity, require_agreement
from histopipe.export.patches import Chosen, choose_patches
from histopipe.export.record import Exported, ExportRecord, Facts, MeasuredFile
from histopipe.export.report import JSON_FILE, PAGE, add_to_report, files_in
from histopipe.export.source import Format, Grader, Quantize, Source, flat
from histopipe.inference.model import CHAMPION, Served, load_served, model_paths
from histopipe.networks.prediction import for_prediction

if TYPE_CHECKING:
    import keras

BATCH = BATCHES[-1]


def export(
    dataset: str,
    architecture: str | None,
    model: str | None,
    kind: str,
    quantize: Quantize,
    out: Path,
    params: Params,
    workspace: Workspace,
    log: bool = True,
    overwrite: bool = False,
) -> Exported:
    """Write one file of a model, with what it is and what it costs beside it.

    Args:
        dataset: the model's data set, whose training patches calibrate the file and whose test patches measure it.
        architecture: whose newest evaluation's model is taken; None for `model`.
        model: as `histopipe.inference.model.load_served` takes it; the champion where neither is given.
        kind: one of `FORMATS`.
        quantize: its precision.
        out: the file to write, by the suffix of its format; or a folder for it.
        params: of the workspace.
        workspace: whose store, split and tracking store are used.
        log: whether MLflow gets it too.
        overwrite: whether an earlier export of that name may be replaced.

    Returns:
        The file's part of `export.json`, its `path`, and under `logged` where MLflow has it.

    Raises:
        ExportError: a package is missing, there is no such model, or the file wouldn't answer as Keras does.
        ScoringError: there is no such model.
        StoreError, SplitError: patches or split are missing.
        InferenceError: OpenVINO can't read the network.
        TrackingAwayError: MLflow can't be asked.
        OutputError: something else lies where the file is to be.
    """
    form = FORMATS[kind]
    if architecture and model:
        raise ExportError(f"{architecture} and --model {model} are two models: give one of them")
    out = _claimed(out, form, model, overwrite, workspace)
    form.require(quantize)
    store = PatchStore.open(workspace.store(dataset))
    address = address_of(dataset, architecture, workspace) if architecture else model or CHAMPION
    served = load_served(address, dataset, workspace)
    require_own_size(served, store)
    origin = origin_of(served, dataset, workspace)
    chosen = choose_patches(store, workspace.split(dataset), origin.seen or (), params.seed)
    facts = facts_of(served, origin, kind, quantize)
    path = place_of(out, form, f"{facts['architecture']}-{quantize}")
    output = free_files(path, form, overwrite)
    with TemporaryDirectory() as scratch:
        source = source_of(served, store, chosen, quantize, facts)
        made = _made(form, source, Path(scratch) / path.name)
        found = record_of(made, source, form, store, chosen, params)
        require_agreement(found["parity"], quantize, lambda: f"the {kind} file of {served.name}")
        seen = "unknown" if origin.seen is None else "known"
        record: ExportRecord = {**found, "format": kind, "quantize": quantize, "seen": seen}
        written = put_in_place(made, path, record, output)
    return {**record, "path": path, "logged": log_export(written, record, served, origin, workspace) if log else ""}


def _claimed(out: Path, form: Format, model: str | None, overwrite: bool, workspace: Workspace) -> Path:
    """See before any work that the file, or its folder, may be written; returns where a link leads."""
    target = claim_path(out, {"the model": model_paths(model)}, workspace)
    out = target if out.is_symlink() else out
    if out.suffix == form.suffix and not out.is_dir():
        free_files(out, form, overwrite)
    return out


def _made(form: Format, source: Source, path: Path) -> list[Path]:
    """Write the files and see that their runtime can open them.

    Raises:
        ExportError: the converter or the runtime fails at this network.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # converters use old names of their own makers
            made = form.write(source, path)
        form.load(made[0], 1)
    except HistopipeError:
        raise
    except Exception as problem:  # every converter has errors of its own
        reason = one_line(str(problem).replace(str(path.parent), ""), 200)
        raise ExportError(
            f"{source.network.name} can't become a {form.suffix} file ({reason}): nothing was written; "
            "try another --format"
        ) from None
    return made


def require_own_size(served: Served, store: PatchStore) -> None:
    """Check that the store holds patches of the size that the model takes.

    Raises:
        ExportError: it doesn't.
    """
    if served.patch_size != store.patch_size:
        height, width = served.patch_size
        raise ExportError(
            f"{served.name} takes patches of {width}x{height} pixels, not those of {store.folder}: "
            f"run `dvc repro ingest@{store.folder.name}`"
        )


def facts_of(served: Served, origin: Origin, kind: str, quantize: Quantize) -> Facts:
    """What a file says of itself."""
    point = served.point
    height, width = served.patch_size
    return {
        **origin.facts(served),
        "dataset": point["data_set"],
        "classes": [point["negative_class"], point["positive_class"]],
        "threshold": point["threshold"],
        "input": f"patch: uint8 (batch, {height}, {width}, 3), RGB, as it is",
        "output": f"probability: float32 (batch, 1), calibrated, of {point['positive_class']}",
        "other_sizes": "resize" if point.get("resized") else "pad by repeating the last row and column",
        "format": kind,
        "quantize": quantize,
        "made_by": f"histopipe {__version__}",
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "use": "research use only",
    }


def place_of(out: Path, form: Format, stem: str) -> Path:
    """The file to write: `out` itself where it ends as the format's files do, else in the folder `out`.

    Raises:
        ExportError: `out` is another file.
    """
    if out.suffix == form.suffix and not out.is_dir():
        return out
    if out.is_file() or out.suffix in {other.suffix for other in FORMATS.values()}:
        raise ExportError(f"{out} is no place for a {form.suffix} file: give --out a folder or a name ending so")
    return out / f"{stem}{form.suffix}"


def source_of(served: Served, store: PatchStore, chosen: Chosen, quantize: Quantize, facts: Facts) -> Source:
    """What the file is made from; patches to calibrate by only where they are needed."""
    rows = chosen.calibration if quantize == "int8" else chosen.calibration[:0]
    return Source(for_prediction(served.network), served.patch_size, quantize, store.gather(rows), facts)


def record_of(
    made: Sequence[Path], source: Source, form: Format, store: PatchStore, chosen: Chosen, params: Params
) -> MeasuredFile:
    """What the file is, how it answers and how long it takes."""
    threads = available_cores()
    file, by_keras = form.load(made[0], threads), grader_of(source.network)
    patches = measured_patches(store.index.iloc[chosen.test])
    found = answers(file, store, chosen.test, BATCH, f"test patches by {made[0].name}")
    reference = answers(by_keras, store, chosen.test, BATCH, "test patches by Keras")
    return {
        "facts": source.facts,
        "sha256": file_digest(made[0]),
        "bytes": sum(path.stat().st_size for path in made),
        "files": [path.name for path in made],
        "calibration_patches": len(source.calibration),
        "cases_set_aside": chosen.set_aside,
        "parity": parity(reference, found, patches, source.facts["threshold"], params.evaluate.resamples, params.seed),
        "latency": latency(by_keras, file, store.gather(chosen.test[:BATCH]), threads),
        "machine": machine_name(),
    }


def measured_patches(index: pd.DataFrame) -> pd.DataFrame:
    """Columns `label` and `case_id` of test patches, ids that share patches under one, as evaluation counts them."""
    cases = joined_cases(index)
    return pd.DataFrame({"label": index["label"], "case_id": index["case_id"] if cases is None else cases})


def grader_of(network: keras.Model) -> Grader:
    """Keras' own answer."""
    return lambda patches: flat(np.asarray(network.predict_on_batch(patches)))


def machine_name() -> str:
    """What the latencies were measured on."""
    names = [line.partition(":")[2].strip() for line in _processor_lines() if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {available_cores()} cores"


def _processor_lines() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return []


def free_files(path: Path, form: Format, overwrite: bool) -> OutputFiles:
    """Where the file and what comes with it may be written.

    Raises:
        OutputError: something else is there, or an earlier export that nobody asked to replace.
    """
    output = files_in(path.parent, overwrite)
    names = [path.with_suffix(suffix).name for suffix in (form.suffix, *form.beside)]
    output.require_free([*names, facts_name(path)], sealed=[PAGE])
    return output


def facts_name(path: Path) -> str:
    """The name of the file that says what an export is."""
    return f"{path.name}.json"


def put_in_place(
    made: Sequence[Path], path: Path, record: ExportRecord, output: OutputFiles | None = None
) -> list[Path]:
    """Move the files to where they were asked for, the one that is opened first last; returns all that was written.

    Of several, an earlier one of that name is deleted before: a kill must not leave an old graph with new weights.

    Args:
        made: the files, the one that is opened first, first.
        path: where that is to lie.
        record: what they are.
        output: lists what it wrote; where it is given, nothing else is replaced.

    Raises:
        OutputError: someone has put another file there meanwhile.
    """
    written, facts = [], path.with_name(facts_name(path))
    if output:
        digests = {file.name: file_digest(file) for file in made} | {
            facts.name: text_digest(format_json(record["facts"]))
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked_file(path.with_name(JSON_FILE), required=False):
            output.require_free([*digests], sealed=[PAGE])
            output.announce(digests)
    if len(made) > 1:
        path.with_name(made[0].name).unlink(missing_ok=True)
    for file in reversed(made):
        with replaced_file(path.with_name(file.name)) as beside:
            shutil.copyfile(file, beside)
        written.append(path.with_name(file.name))
    write_json(facts, record["facts"])
    if output:
        add_to_report(path.parent, path.name, record, digests)
    return [*written, facts, path.parent / JSON_FILE, path.parent / PAGE]
