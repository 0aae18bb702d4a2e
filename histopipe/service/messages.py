"""What the server and the process that grades slides tell each other, a line of JSON each."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from histopipe.networks.openvino import Precision


class JobRequest(TypedDict):
    """A job, as the server hands it to the process.

    Attributes:
        input: the file to grade.
        model: the address of exactly one version.
        dataset: the model's.
        out: the folder to write.
        scratch: for temporary files.
        root: the checkout.
        precision: of the arithmetic.
        mpp, slide_mpp: micrometres to a pixel of the model's patches and of slides, where somebody says so.
        members: that an archive may have.
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
    """What the process says of a job: how far it is, or at its end a summary or an error.

    Attributes:
        step: what it is at.
        done, total: patches so far, and of how many; None where that isn't known.
        summary: content of `summary.json`, in words that clients know.
        error: why the job failed.
    """

    step: str
    done: int
    total: int | None
    summary: dict[str, object]
    error: str
