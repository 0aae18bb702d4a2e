"""What a flow or a stage loads at its import: TensorFlow, MLflow and plotting wait until they are needed."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.builders.paths import ROOT

SLOW = ("dask", "jax", "keras", "matplotlib", "mlflow", "openvino", "sklearn", "tensorflow", "torch")
LISTED = f"""
import importlib, json, sys
from pathlib import Path
loaded = {{}}
patterns = ("histopipe/**/stage.py", "histopipe/cli/*.py", "flows/*.py")
for path in sorted(path for pattern in patterns for path in Path().glob(pattern)):
    module = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
    importlib.import_module(module)
    loaded[module] = [name for name in {SLOW} if name in sys.modules]
print(json.dumps(loaded))
"""


def test_flows_and_stages_load_slow_packages_only_when_they_need_them() -> None:
    """TensorFlow alone takes seconds and half a gigabyte, which a flow that only starts stages would hold."""
    done = subprocess.run([sys.executable, "-c", LISTED], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    assert {"flows.pipeline", "histopipe.promotion.stage", "histopipe.cli.stages"} <= set(loaded)
    assert {module: names for module, names in loaded.items() if names} == {}
