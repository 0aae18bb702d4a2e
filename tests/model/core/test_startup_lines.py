"""What TensorFlow says whenever it starts stays out of a command's output; errors and a crash's last words don't."""

from __future__ import annotations

import subprocess
import sys

import pytest
import yaml

from histopipe.core.workspace import Workspace

SAID = """\
WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1796042091.490580   19912 cudart_stub.cc:31] Could not find cuda drivers, GPU will not be used.
2026-11-30 12:00:00.123456: I tensorflow/core/util/port.cc:153] oneDNN custom operations are on.
E0000 00:00:1796042091.490009   19912 cuda_fft.cc:477] Unable to register cuFFT factory: Attempting to register factory
E0000 00:00:1796042091.490009   19912 env.cc:9] the disk is gone
W: a warning of Python's
F0000 00:00:1796042091.490009   19912 cpu_feature_guard.cc:1] compiled to use AVX, but these aren't available
"""
SHOWN = "".join(f"{line}\n" for line in SAID.splitlines()[-3:])


@pytest.mark.parametrize("end", ["os._exit(3)", "os.abort()", "raise SystemExit(3)"])
def test_errors_come_out_of_the_filter_whatever_ends_the_process(end: str) -> None:
    code = f"""
        import os
        from histopipe.core.startup_lines import startup_lines_dropped
        with startup_lines_dropped():
            os.write(2, {SAID.encode()!r})
            {end}
    """.replace("\n        ", "\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.startswith(SHOWN)  # an abort has Python's own word behind it
    assert "GPU" not in done.stderr


def test_a_command_that_loads_tensorflow_shows_its_own_line_alone(workspace: Workspace) -> None:
    """The weights stage loads TensorFlow to see that a file isn't of this network."""
    content = yaml.safe_load(workspace.params.read_text(encoding="utf-8"))
    content |= {"quick": None}
    content["recipes"]["cancernet"]["weights"] = "mine.weights.h5"
    workspace.params.write_text(yaml.safe_dump(content), encoding="utf-8")
    (workspace.root / "mine.weights.h5").write_bytes(b"nothing of the kind")
    command = [sys.executable, "-X", "importtime", "-m", "histopipe", "weights", "cancernet"]
    done = subprocess.run(command, cwd=workspace.root, capture_output=True, text=True, check=False)
    timings, said = [], []
    for line in done.stderr.splitlines():
        (timings if line.startswith("import time:") else said).append(line)
    assert any(line.split()[-1] == "tensorflow" for line in timings)
    assert done.returncode == 2
    assert said[-1].startswith("histopipe: recipes.cancernet.weights: mine.weights.h5 is damaged"), said
    assert all(line.startswith("WARNING: recipes.cancernet.weights: ") for line in said[:-1]), said
