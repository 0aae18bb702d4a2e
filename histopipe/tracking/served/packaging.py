"""Putting the served model together and logging it."""

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
DATA_ARTIFACT = "data"  # which data the model was made from (histopipe/tracking/provenance.py)
NETWORK_DIGEST_TAG = "network_sha256"  # of the logged model: tells later whether its file is whole


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
        network: with the calibration of the operating point folded in (`histopipe.networks.temperature.calibrated`).
        operating_point: content of `operating_point.json`.
        example: one patch, uint8 (height, width, 3).
        tags: of the logged model.
        reference: profiles of the cases behind it, by which drift is told from any machine that can load the model.
        made_from: the record of its data, by which every checkout can tell whether the model is of its own.
    """
    from mlflow.models import Model

    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # four bars for copying one small file
    with TemporaryDirectory() as folder:
        file, point = Path(folder) / "model.keras", write_operating_point(Path(folder), operating_point)
        network.save(file)
        artifacts = {"network": str(file), "operating_point": str(point)}
        if reference:  # from here: MLflow reads a path as an address, which a # in the checkout's would cut off
            artifacts[REFERENCE_ARTIFACT] = str(shutil.copyfile(reference, Path(folder) / reference.name))
        if made_from:
            write_json(Path(folder) / "data.json", made_from)
            artifacts[DATA_ARTIFACT] = str(Path(folder) / "data.json")
        return Model.log(
            None,
            _UngradedPyfunc,
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


class _UngradedPyfunc:
    """MLflow's flavor `pyfunc`, for a log that doesn't load the model again and grade its example.

    `mlflow.pyfunc.log_model` always does, which for DenseNet201 takes a fifth of its evaluation; all it does with a
    failure is to warn. That served models load and grade their example is what `test_served_model.py` checks.
    """

    @staticmethod
    def save_model(validate_serving_input: bool, **arguments: Any) -> None:
        """Save the model; the first argument is for `Model.log`, which hands on all it is given."""
        import mlflow

        mlflow.pyfunc.save_model(**arguments)


def signature() -> ModelSignature:
    """One input `image`: any array of images, pixels or encoded files; out come `probability` and `decision`.

    A tensor of objects is the one type of MLflow 3.17 whose check lets through both what arrays need (four
    dimensions) and what frames of encoded images need (one); a tensor of uint8 refuses every frame, a column
    of binary every array. The classifier itself checks each image.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    return ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(object), (-1,), "image")]),
        outputs=Schema([ColSpec("double", "probability"), ColSpec("long", "decision")]),
    )


def requirements() -> list[str]:
    """What the served model needs, at today's versions; MLflow would take 20 s to infer them."""
    import keras

    packages = ("keras", keras.backend.backend(), "mlflow", "numpy", "pandas", "pillow")
    return [f"{package}=={version(package)}" for package in packages]


def as_text(patch: NDArray[np.uint8]) -> str:
    """A patch as a PNG file in base64, as clients send it in JSON."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(patch).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()
