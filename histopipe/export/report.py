"""The exports of a folder, as `export.json` and as a page to read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from histopipe.core.errors import HistopipeError
from histopipe.core.files import as_size, read_json, write_text
from histopipe.core.locking import locked_file
from histopipe.core.outputs.claims import OutputFiles, seal_text
from histopipe.evaluation.intervals import Estimate
from histopipe.export.record import Exported, ExportRecord
from histopipe.reporting.comparison.table import markdown_table

JSON_FILE, PAGE = "export.json", "export.md"
UNSEEN = "which cases the model was trained on isn't known here, so some of the test cases may be among them"


def files_in(folder: Path, overwrite: bool) -> OutputFiles:
    """What `export` wrote into a folder, as `export.json` lists it."""
    return OutputFiles(folder, "export", JSON_FILE, overwrite)


def add_to_report(
    folder: Path, name: str, record: ExportRecord, digests: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Put one file's record into the folder's `export.json`, and write the page anew.

    Args:
        folder: that the file lies in.
        name: the file's.
        record: what was measured of it.
        digests: of the files that belong to it, by name.
    """
    output = files_in(folder, overwrite=True)
    with locked_file(folder / JSON_FILE, required=False):  # two checkouts may export into one folder
        records = {**_earlier(folder), name: record}
        kept = {name: records[name] for name in sorted(records) if (folder / name).exists()}
        write_text(folder / PAGE, seal_text(page(kept), output.command))
        output.finish({"exports": kept}, digests)  # last: with the file, the lock goes


def _earlier(folder: Path) -> dict[str, ExportRecord]:
    try:
        return dict(read_json(folder / JSON_FILE)["exports"])
    except (HistopipeError, KeyError, TypeError, ValueError, OSError):
        return {}


def page(records: dict[str, ExportRecord]) -> str:
    """All files of a folder in one table, in Markdown."""
    heading = [
        "file",
        "of",
        "size",
        "ROC AUC",
        "its change [95 % by case]",
        "decisions changed [95 %]",
        "probability off by at most (mean)",
        "ms for 1 patch, Keras' over it",
        "ms for 32, Keras' over it",
    ]
    lines = [heading, ["---"] * 3 + ["--:"] * (len(heading) - 3), *(_cells(*item) for item in records.items())]
    notes = sorted({_note(record) for record in records.values()})
    return "\n\n".join(["# Exports", markdown_table(lines), *notes]) + "\n"


def _cells(name: str, record: ExportRecord) -> list[str]:
    parity, batches = record["parity"], record["latency"]["batches"]
    apart = parity["probability_difference"]
    return [
        f"`{name}`",
        _model(record),
        as_size(record["bytes"]),
        f"{parity['file']['roc_auc']:.4f}",
        _signed(parity["change"]["roc_auc"]),
        _percent(parity["decisions_changed"]),
        f"{apart['max']:.2g} ({apart['mean']:.2g})",
        *(f"{batches[size]['file_ms']:.2f} ({batches[size]['ratio']:.1f}x)" for size in ("1", "32")),
    ]


def _model(record: ExportRecord) -> str:
    facts = record["facts"]
    version = f" version {facts['version']}" if "version" in facts else ""
    return f"{facts['model']}{version}, {facts['architecture']}"


def _signed(change: Estimate) -> str:
    if change["value"] is None:
        return "undefined"
    return f"{change['value']:+.4f} [{change['low']:+.4f}, {change['high']:+.4f}]"


def _percent(share: Estimate) -> str:
    value, low, high = (100 * (share[end] or 0.0) for end in ("value", "low", "high"))
    return f"{value:.2f} % [{low:.2f}, {high:.2f}]"


def _note(record: ExportRecord) -> str:
    parity, machine = record["parity"], record["machine"]
    unsure = "" if record.get("seen") != "unknown" else f" `{record['facts']['model']}`: {UNSEEN}."
    return (
        f"Measured on {parity['patches']:,} test patches of {parity['cases']} cases of {record['facts']['dataset']}; "
        f"by {record['calibration_patches']} training patches where in int8. Medians on {record['latency']['threads']} "
        f"threads of {machine}, the file's and Keras' in turn.{unsure}"
    )


def said(record: Exported) -> str:
    """One line of what an export wrote."""
    parity = record["parity"]
    line = (
        f"{record['path']}: {as_size(record['bytes'])}, ROC AUC {_signed(parity['change']['roc_auc'])} to Keras', "
        f"{_percent(parity['decisions_changed'])} of decisions changed"
    )
    if record.get("seen") == "unknown":
        line += f"; {UNSEEN}"
    return f"{line}; {record['logged']}" if record["logged"] else line
