"""The command line stays light until a stage needs its libraries."""

from __future__ import annotations

import subprocess
import sys

import pytest
from click.testing import CliRunner

from histopipe.cli import main

HEAVY = ("tensorflow", "keras", "pandas", "numpy", "mlflow", "pydantic", "sklearn", "matplotlib")


def test_help_loads_nothing_heavy() -> None:
    code = f"import sys\nimport histopipe.cli\nprint([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_lists_every_stage() -> None:
    shown = CliRunner().invoke(main, ["--help"])
    assert shown.exit_code == 0
    for stage in ("synth", "locate", "fetch", "ingest", "split", "train", "evaluate", "compare"):
        assert f"\n  {stage} " in shown.output


@pytest.mark.parametrize("arguments", [["ingestt"], ["train", "idc"], ["ingest", "--fast"]])
def test_a_wrong_command_line_ends_with_two(arguments: list[str]) -> None:
    assert CliRunner().invoke(main, arguments).exit_code == 2
