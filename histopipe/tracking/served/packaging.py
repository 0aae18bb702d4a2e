"""Build the served model and log it."""

from __future__ import annotations

import base64
import io
import os
import shutil
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histopipe.core.files import file_digest, write_json
from histopipe.core.operating_point import OperatingPoint, write_operating_point
from histopipe.core.training_record import DataRecord

if TYPE_CHECKING:
    import keras
    from mlflow.models import ModelSignature
    from mlflow.models.model import ModelInfo

CLASSIFIER = Path(__file__).with_name("classifier.py")
MODEL_NAME = "model"
REFERENCE_ARTIFACT = "reference"
DATA_ARTIFACT = "data"  # the data that the model was made from (histopipe/tracking/provenance.py)
NETWORK_DIGEST_TAG = "network_sha256"  # tag of the logged model: the digest by which its file is checked


def log_served_model(
    network: keras.Model,
    operating_point: OperatingPoint,
    example: NDArray[np.uint8],
    tags: dict[str, str],
    reference: Path | None = None,
    made_from: DataRecord | None = None,
) -> ModelInfo:
    """Log the calibrated model into the active MLflow run, with its signature and an input example.

    Args:
        network: network with the calibration folded in (`histopipe.networks.temperature.calibrated`).
        operating_point: content of `operating_point.json`.
        example: one patch, uint8 (height, width, 3).
        tags: tags of the logged model.
        reference: profiles of the model's cases, so that drift can be measured wherever the model can be loaded.
        made_from: record of the model's data, by which a checkout recognises whether the model is of its own data.
    """
    from mlflow.models import Model

    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # four progress bars for one small file
    with TemporaryDirectory() as folder:
        file, point = Path(folder) / "model.keras", write_operating_point(Path(folder), operating_point)
        network.save(file)
        artifacts = {"network": str(file), "operating_point": str(point)}
        if reference:  # from this folder: MLflow reads a path as an address, and cuts it off at a #
            artifacts[REFERENCE_ARTIFACT] = str(shutil.copyfile(reference, Path(folder) / reference.name))
        if made_from:
            write_json(Path(folder) / "data.json", made_from)
            artifacts[DATA_ARTIFACT] = str(Path(folder) / "data.json")
        return Model.log(
            None,
            _UntestedPyfunc,
            name=MODEL_NAME,
            validate_serving_input=False,
            flavor_name="pyfunc.ModelFromCode",
            python_model=str(CLASSIFIER),
            artifacts=artifacts,
            signature=signature(),
            input_example=pd.DataFrame({"image": [as_text(example)]}),
            pip_requirements=requirements(),
            metadata=operating_point,
            tags=tags | {NETWORK_DIGEST_TAG: file_digest(file)},
        )


class _UntestedPyfunc:
    """MLflow's flavor `pyfunc`, logged without loading the model again and predicting its example.

    `mlflow.pyfunc.log_model` always does both, which takes a fifth of DenseNet201's evaluation time, and only warns of
    a failure. `tests/model/tracking/test_served.py` checks that served models load and predict their example.
    """

    @staticmethod
    def save_model(validate_serving_input: bool, **arguments: Any) -> None:
        """Save the model; the first argument is one that `Model.log` passes on, and is ignored."""
        import mlflow

        mlflow.pyfunc.save_model(**arguments)


def signature() -> ModelSignature:
    """Return the model's signature: one input `image` (arrays, pixels or encoded files), two outputs.

    The outputs are `probability` and `decision`.

    A tensor of objects is the one type of MLflow 3.17 whose check accepts both arrays (four dimensions) and frames of
    encoded images (one); a tensor of uint8 refuses every frame, a column of binary every array. The classifier itself
    checks each image.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    return ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(object), (-1,), "image")]),
        outputs=Schema([ColSpec("double", "probability"), ColSpec("long", "decision")]),
    )


def requirements() -> list[str]:
    """List the packages of the served model at their installed versions; MLflow would take 20 s to infer them."""
    import keras

    packages = ("keras", keras.backend.backend(), "mlflow", "numpy", "pandas", "pillow")
    return [f"{package}=={version(package)}" for package in packages]


def as_text(patch: NDArray[np.uint8]) -> str:
    """Encode a patch as a PNG file in base64, as clients send it in JSON."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(patch).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()
