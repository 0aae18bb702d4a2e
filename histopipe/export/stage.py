"""The export stage: one file of a model, measured before it is written."""

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
from histopipe.core.processes import available_cores
from histopipe.core.workspace import Workspace
from histopipe.data.store import PatchStore
from histopipe.evaluation.cases import joined_cases
from histopipe.export.formats import FORMATS
from histopipe.export.latency import BATCHES, measure_latency
from histopipe.export.mlflow_run import log_export
from histopipe.export.origin import Origin, find_origin, logged_model_address
from histopipe.export.parity import measure_parity, predict_rows, require_agreement
from histopipe.export.patches import PatchSelection, select_patches
from histopipe.export.record import ExportRecord, ExportResult, FileFacts, MeasuredFile
from histopipe.export.report import JSON_FILE, PAGE, add_to_report, files_in
from histopipe.export.source import Format, PredictFunction, Quantize, Source, flatten
from histopipe.inference.model import CHAMPION, ServedModel, load_served_model, model_paths
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
) -> ExportResult:
    """Export a model into one file, and write its description and the measurements next to it.

    Args:
        dataset: the model's data set; its training patches calibrate the file, and its test patches measure it.
        architecture: the recipe whose newest evaluated model is exported; None to export `model`.
        model: the model's address, in any form that `load_served_model` takes; the champion if neither is given.
        kind: the format, one of `FORMATS`.
        quantize: the file's precision.
        out: the file to write, with the suffix of its format, or a folder for it.
        params: the checkout's parameters.
        workspace: the checkout with store, split and the settings of the tracking store.
        log: whether to log the file to MLflow as well.
        overwrite: whether an earlier export of the same name may be replaced.

    Returns:
        The file's entry in `export.json`, its `path`, and where MLflow has it (`logged`).

    Raises:
        ExportError: a package is missing, there is no such model, or the file doesn't predict as Keras does.
        PredictionError: there is no such model.
        StoreError, SplitError: patches or split are missing.
        InferenceError: OpenVINO can't read the network.
        TrackingUnreachableError: MLflow can't be reached.
        OutputError: there is another file at `out`.
    """
    export_format = FORMATS[kind]
    if architecture and model:
        raise ExportError(f"{architecture} and --model {model} are two models: give one of them")
    out = _claim_output(out, export_format, model, overwrite, workspace)
    export_format.require(quantize)
    store = PatchStore.open(workspace.store(dataset))
    address = logged_model_address(dataset, architecture, workspace) if architecture else model or CHAMPION
    served = load_served_model(address, dataset, workspace)
    require_own_size(served, store)
    origin = find_origin(served, dataset, workspace)
    selection = select_patches(store, workspace.split(dataset), origin.seen or (), params.seed)
    facts = describe_file(served, origin, kind, quantize)
    path = output_path(out, export_format, f"{facts['architecture']}-{quantize}")
    output = claim_files(path, export_format, overwrite)
    with TemporaryDirectory() as scratch:
        source = build_source(served, store, selection, quantize, facts)
        files = _write_checked(export_format, source, Path(scratch) / path.name)
        measured = measure_file(files, source, export_format, store, selection, params)
        require_agreement(measured["parity"], quantize, lambda: f"the {kind} file of {served.name}")
        seen = "unknown" if origin.seen is None else "known"
        record: ExportRecord = {**measured, "format": kind, "quantize": quantize, "seen": seen}
        written = move_into_place(files, path, record, output)
    return {**record, "path": path, "logged": log_export(written, record, served, origin, workspace) if log else ""}


def _claim_output(out: Path, export_format: Format, model: str | None, overwrite: bool, workspace: Workspace) -> Path:
    """Check before any work that the file or its folder may be written; return the target of a link."""
    target = claim_path(out, {"the model": model_paths(model)}, workspace)
    out = target if out.is_symlink() else out
    if out.suffix == export_format.suffix and not out.is_dir():
        claim_files(out, export_format, overwrite)
    return out


def _write_checked(export_format: Format, source: Source, path: Path) -> list[Path]:
    """Write the files and check that their runtime can open them.

    Raises:
        ExportError: the converter or the runtime fails at this network.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # converters call deprecated functions
            files = export_format.write(source, path)
        export_format.load(files[0], 1)
    except HistopipeError:
        raise
    except Exception as problem:  # every converter raises its own exceptions
        reason = one_line(str(problem).replace(str(path.parent), ""), 200)
        raise ExportError(
            f"{source.network.name} can't become a {export_format.suffix} file ({reason}): nothing was written; "
            "try another --format"
        ) from None
    return files


def require_own_size(served: ServedModel, store: PatchStore) -> None:
    """Check that the store holds patches of the size that the model takes.

    Raises:
        ExportError: the store's patches have another size.
    """
    if served.patch_size != store.patch_size:
        height, width = served.patch_size
        raise ExportError(
            f"{served.name} takes patches of {width}x{height} pixels, not those of {store.folder}: "
            f"run `dvc repro ingest@{store.folder.name}`"
        )


def describe_file(served: ServedModel, origin: Origin, kind: str, quantize: Quantize) -> FileFacts:
    """Describe an exported file and its model."""
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


def output_path(out: Path, export_format: Format, stem: str) -> Path:
    """Return the file to write: `out` itself if it has the format's suffix, else a file in the folder `out`.

    Raises:
        ExportError: `out` is another file.
    """
    if out.suffix == export_format.suffix and not out.is_dir():
        return out
    if out.is_file() or out.suffix in {other.suffix for other in FORMATS.values()}:
        raise ExportError(
            f"{out} can't be a {export_format.suffix} file: give --out a folder or a name with that suffix"
        )
    return out / f"{stem}{export_format.suffix}"


def build_source(
    served: ServedModel, store: PatchStore, selection: PatchSelection, quantize: Quantize, facts: FileFacts
) -> Source:
    """Return the source of a file; it holds calibration patches only if they are needed."""
    rows = selection.calibration if quantize == "int8" else selection.calibration[:0]
    return Source(for_prediction(served.network), served.patch_size, quantize, store.gather(rows), facts)


def measure_file(
    files: Sequence[Path],
    source: Source,
    export_format: Format,
    store: PatchStore,
    selection: PatchSelection,
    params: Params,
) -> MeasuredFile:
    """Measure how a file predicts and how long it takes."""
    threads = available_cores()
    file, keras_predict = export_format.load(files[0], threads), keras_predict_function(source.network)
    patches = labels_with_cases(store.index.iloc[selection.test])
    exported = predict_rows(file, store, selection.test, BATCH, f"test patches by {files[0].name}")
    reference = predict_rows(keras_predict, store, selection.test, BATCH, "test patches by Keras")
    return {
        "facts": source.facts,
        "sha256": file_digest(files[0]),
        "bytes": sum(path.stat().st_size for path in files),
        "files": [path.name for path in files],
        "calibration_patches": len(source.calibration),
        "cases_set_aside": selection.set_aside,
        "parity": measure_parity(
            reference, exported, patches, source.facts["threshold"], params.evaluate.resamples, params.seed
        ),
        "latency": measure_latency(keras_predict, file, store.gather(selection.test[:BATCH]), threads),
        "machine": machine_name(),
    }


def labels_with_cases(index: pd.DataFrame) -> pd.DataFrame:
    """Return columns `label` and `case_id` of patches; ids that share patches count as one case, as in evaluation."""
    cases = joined_cases(index)
    return pd.DataFrame({"label": index["label"], "case_id": index["case_id"] if cases is None else cases})


def keras_predict_function(network: keras.Model) -> PredictFunction:
    """Return a function that predicts patches with Keras."""
    return lambda patches: flatten(np.asarray(network.predict_on_batch(patches)))


def machine_name() -> str:
    """Describe the machine on which latencies are measured."""
    names = [line.partition(":")[2].strip() for line in _processor_lines() if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {available_cores()} cores"


def _processor_lines() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return []


def claim_files(path: Path, export_format: Format, overwrite: bool) -> OutputFiles:
    """Check that the file and those that belong to it may be written; return the folder's exports.

    Raises:
        OutputError: there is another file, or an earlier export that may not be replaced.
    """
    output = files_in(path.parent, overwrite)
    names = [path.with_suffix(suffix).name for suffix in (export_format.suffix, *export_format.extra_suffixes)]
    output.require_free([*names, facts_name(path)], sealed=[PAGE])
    return output


def facts_name(path: Path) -> str:
    """Return the name of the file that describes an export."""
    return f"{path.name}.json"


def move_into_place(
    files: Sequence[Path], path: Path, record: ExportRecord, output: OutputFiles | None = None
) -> list[Path]:
    """Copy the files to their final path, the one that is opened first last; return all files that were written.

    If there are several, an earlier file that is opened first is deleted before, so that a killed process can't leave
    an old graph with new weights.

    Args:
        files: the files, the one that is opened first at the beginning.
        path: the final path of that one.
        record: the entry for `export.json`.
        output: the folder's exports; if given, no other files are replaced.

    Raises:
        OutputError: another file has appeared there meanwhile.
    """
    written, facts = [], path.with_name(facts_name(path))
    if output:
        digests = {file.name: file_digest(file) for file in files} | {
            facts.name: text_digest(format_json(record["facts"]))
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked_file(path.with_name(JSON_FILE), required=False):
            output.require_free([*digests], sealed=[PAGE])
            output.announce(digests)
    if len(files) > 1:
        path.with_name(files[0].name).unlink(missing_ok=True)
    for file in reversed(files):
        with replaced_file(path.with_name(file.name)) as partial:
            shutil.copyfile(file, partial)
        written.append(path.with_name(file.name))
    write_json(facts, record["facts"])
    if output:
        add_to_report(path.parent, path.name, record, digests)
    return [*written, facts, path.parent / JSON_FILE, path.parent / PAGE]
