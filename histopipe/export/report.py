"""The record of a folder's exports, as `export.json` and as a page for reading, `export.md`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from histopipe.core.errors import HistopipeError
from histopipe.core.files import format_size, read_json, write_text
from histopipe.core.locking import locked_file
from histopipe.core.outputs.claims import OutputFiles, seal_text
from histopipe.evaluation.intervals import Estimate
from histopipe.export.record import ExportRecord, ExportResult
from histopipe.reporting.comparison.table import markdown_table

JSON_FILE, PAGE = "export.json", "export.md"
UNSEEN = "the cases that the model was trained on are unknown here, so it may have seen some of the test cases"


def files_in(folder: Path, overwrite: bool) -> OutputFiles:
    """Return the files that `export` wrote into a folder, which `export.json` lists."""
    return OutputFiles(folder, "export", JSON_FILE, overwrite)


def add_to_report(
    folder: Path, name: str, record: ExportRecord, digests: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Add one file's record to the folder's `export.json`, and write the page again.

    Args:
        folder: the folder that holds the file.
        name: the file's name.
        record: what was measured of it.
        digests: digests of the files that belong to it, by name.
    """
    output = files_in(folder, overwrite=True)
    with locked_file(folder / JSON_FILE, required=False):  # two checkouts may export into one folder
        records = {**_read_earlier(folder), name: record}
        kept = {name: records[name] for name in sorted(records) if (folder / name).exists()}
        write_text(folder / PAGE, seal_text(render_page(kept), output.command))
        output.finish({"exports": kept}, digests)  # last, since it replaces the locked file


def _read_earlier(folder: Path) -> dict[str, ExportRecord]:
    try:
        return dict(read_json(folder / JSON_FILE)["exports"])
    except (HistopipeError, KeyError, TypeError, ValueError, OSError):
        return {}


def render_page(records: dict[str, ExportRecord]) -> str:
    """Render the exports of a folder as a table in Markdown."""
    heading = [
        "file",
        "model",
        "size",
        "ROC AUC",
        "change of ROC AUC [95 % by case]",
        "decisions changed [95 %]",
        "largest difference of probabilities (mean)",
        "ms for 1 patch (speed-up over Keras)",
        "ms for 32 patches (speed-up over Keras)",
    ]
    lines = [heading, ["---"] * 3 + ["--:"] * (len(heading) - 3), *(_cells(*item) for item in records.items())]
    notes = sorted({_note(record) for record in records.values()})
    return "\n\n".join(["# Exports", markdown_table(lines), *notes]) + "\n"


def _cells(name: str, record: ExportRecord) -> list[str]:
    parity, batches = record["parity"], record["latency"]["batches"]
    difference = parity["probability_difference"]
    return [
        f"`{name}`",
        _describe_model(record),
        format_size(record["bytes"]),
        f"{parity['file']['roc_auc']:.4f}",
        _format_change(parity["change"]["roc_auc"]),
        _format_share(parity["decisions_changed"]),
        f"{difference['max']:.2g} ({difference['mean']:.2g})",
        *(f"{batches[size]['file_ms']:.2f} ({batches[size]['ratio']:.1f}x)" for size in ("1", "32")),
    ]


def _describe_model(record: ExportRecord) -> str:
    facts = record["facts"]
    version = f" version {facts['version']}" if "version" in facts else ""
    return f"{facts['model']}{version}, {facts['architecture']}"


def _format_change(change: Estimate) -> str:
    if change["value"] is None:
        return "undefined"
    return f"{change['value']:+.4f} [{change['low']:+.4f}, {change['high']:+.4f}]"


def _format_share(share: Estimate) -> str:
    value, low, high = (100 * (share[end] or 0.0) for end in ("value", "low", "high"))
    return f"{value:.2f} % [{low:.2f}, {high:.2f}]"


def _note(record: ExportRecord) -> str:
    parity, machine = record["parity"], record["machine"]
    caution = "" if record.get("seen") != "unknown" else f" `{record['facts']['model']}`: {UNSEEN}."
    return (
        f"Measured on {parity['patches']:,} test patches of {parity['cases']} cases of {record['facts']['dataset']}; "
        f"int8 is calibrated with {record['calibration_patches']} training patches. Latencies are medians on "
        f"{record['latency']['threads']} threads of {machine}, of the file and of Keras in turn.{caution}"
    )


def describe_export(record: ExportResult) -> str:
    """Describe in one line what an export wrote."""
    parity = record["parity"]
    line = (
        f"{record['path']}: {format_size(record['bytes'])}, ROC AUC {_format_change(parity['change']['roc_auc'])} "
        f"compared with Keras, {_format_share(parity['decisions_changed'])} of decisions changed"
    )
    if record.get("seen") == "unknown":
        line += f"; {UNSEEN}"
    return f"{line}; {record['logged']}" if record["logged"] else line
