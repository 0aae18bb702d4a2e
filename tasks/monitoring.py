"""A task that compares new patches with the cases that their model was made from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from histopipe.core.workspace import Workspace, stage_name
from histopipe.inference.inputs import folder_key
from histopipe.monitoring.record import DriftSummary, read_drift
from histopipe.monitoring.stage import FIGURE, REPORT
from tasks.artifacts import publish_image, publish_markdown
from tasks.declaration import stage_task
from tasks.parallel import for_prediction
from tasks.processes import StageFailed, run_stage


class Drifted(StageFailed):
    """New cases have drifted from those that their model was made from."""


@stage_task("monitor", "monitor-{dataset}", retries=2, delay=10)
def monitor(
    dataset: str, inputs: Sequence[str], scores: str | None, model: str | None, out: str, overwrite: bool = False
) -> DriftSummary:
    """Look for drift, log and show the result; return the content of `drift.json`."""
    options = [*inputs, *(["--scores", scores] if scores else []), *(["--model", model] if model else [])]
    arguments = ["monitor", dataset, *options, "--out", out, "--log", "--exit-zero"]
    arguments += ["--overwrite"] if overwrite else []
    with for_prediction() as environment:
        run_stage(stage_name("monitor", dataset, folder_key(Path(out))), *arguments, environment=environment)
    folder = Workspace.find().root / out
    summary = read_drift(folder)
    text = (folder / REPORT).read_text(encoding="utf-8").replace(f"![Distributions and cases]({FIGURE})", "")
    publish_markdown(text, summary["said"], "drift", dataset)
    publish_image(folder / FIGURE, summary["said"], "drift-figure", dataset)
    return summary
