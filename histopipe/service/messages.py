"""Messages between the service and the process that predicts slides, one line of JSON each."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from histopipe.networks.openvino import Precision


class JobRequest(TypedDict):
    """A job that the service sends to the process.

    Attributes:
        input: path of the file to predict.
        model: address of exactly one version of the model.
        dataset: data set of the model.
        out: folder to write.
        scratch: folder for temporary files.
        root: folder of the checkout.
        precision: number type that the model computes with.
        mpp: pixel size of the model's patches in micrometres; None for that of the data set.
        slide_mpp: pixel size of the slide in micrometres; None for that of its file.
        members: largest number of members of an archive.
    """

    input: str
    model: str
    dataset: str
    out: str
    scratch: str
    root: str
    precision: Precision
    mpp: float | None
    slide_mpp: float | None
    members: int


class JobMessage(TypedDict, total=False):
    """A message of the process about its job: its progress, or at its end a summary or an error.

    Attributes:
        step: name of the current step of the prediction.
        done: number of patches predicted so far.
        total: number of all patches; None while it isn't known.
        summary: content of `summary.json`, in words that clients know.
        error: why the job failed.
    """

    step: str
    done: int
    total: int | None
    summary: dict[str, object]
    error: str
