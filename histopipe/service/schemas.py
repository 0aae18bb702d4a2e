"""Schemas of the API's responses, for its OpenAPI description.

Responses are not validated against them when they are sent, because that takes time.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field


class ModelName(BaseModel):
    """Name and version of the model that answered."""

    name: str
    version: str = Field(description="Version in the registry; for a folder the start of its network's SHA-256.")


class PatchPrediction(BaseModel):
    """The prediction of one image."""

    name: str | None = Field(description="Name of the file, as it was sent.")
    probability: float = Field(ge=0, le=1, description="Calibrated probability of the positive class.")
    decision: Literal[0, 1] = Field(description="1 if the probability is at or above the threshold.")
    label: str = Field(description="Name of the predicted class.")


class Predictions(BaseModel):
    """Predictions of all images, in the order in which they were sent."""

    model: ModelName
    threshold: float
    positive_class: str
    predictions: list[PatchPrediction]


class Explanation(PatchPrediction):
    """The prediction of one image, with its explanation."""

    model: ModelName
    threshold: float
    positive_class: str
    overlay: str = Field(
        description="PNG in base64, as large as the patch: orange marks evidence for the positive class, purple "
        "against it."
    )


class Bounds(BaseModel):
    """Limits on one client."""

    images: int = Field(description="Maximum number of images in one request.")
    pixels: int = Field(description="Maximum number of pixels in one image.")
    body_bytes: int = Field(description="Maximum size of a request with images.")
    upload_bytes: int = Field(description="Maximum size of a slide or an archive.")


class ModelDescription(BaseModel):
    """The model in use."""

    model: ModelName
    data_set: str
    positive_class: str
    negative_class: str
    threshold: float
    rule: str | None
    temperature: float | None
    patch_size: list[int] = Field(description="Height and width in pixels.")
    resized: bool = Field(description="True if images of other sizes are resized, false if smaller ones are padded.")
    precision: str
    loaded: float = Field(description="Time at which the model was loaded, in seconds since 1970.")
    limits: Bounds
    card: str = Field(description="The model card, in Markdown.")


class JobState(BaseModel):
    """Progress of a slide or archive."""

    id: str
    name: str
    state: Literal["uploading", "waiting", "running", "done", "failed", "cancelled"]
    step: str
    done: int = Field(description="Number of patches predicted so far.")
    total: int | None = Field(description="Number of all patches; null while it isn't known.")
    error: str | None
    model: ModelName
    created: float = Field(description="Time at which the job was created, in seconds since 1970.")


class CaseSummary(BaseModel):
    """One case of a slide or archive."""

    case_id: str
    patches: int
    positive: int
    positive_share: float = Field(description="Share of the patches that are called positive, 0 to 1.")
    mean_probability: float
    placed: int = Field(description="Number of patches whose position is known.")
    map: bool = Field(description="True if the case has a map.")
    tissue: bool = Field(description="True if the case has an image of its tissue.")


class JobResult(BaseModel):
    """The result of a slide or archive."""

    id: str
    name: str
    model: ModelName
    threshold: float
    positive_class: str
    summary: dict[str, Any] = Field(description="The summary that `histopipe predict` writes.")
    cases: list[CaseSummary]


class CasePatches(BaseModel):
    """The patches of a case, one list per column."""

    case_id: str
    x: list[int | None] = Field(description="Left edges, in pixels of the slide; null if unknown.")
    y: list[int | None] = Field(description="Upper edges, in pixels of the slide; null if unknown.")
    width: list[int] = Field(description="Widths, in pixels of the slide.")
    height: list[int] = Field(description="Heights, in pixels of the slide.")
    probability: list[float]


class Example(BaseModel):
    """A synthetic patch to try the service with."""

    name: str
    drawn_as: str = Field(description="The class that the patch imitates.")
    image: str = Field(description="PNG in base64.")


class Health(BaseModel):
    """State of the service, and the model in use."""

    status: Literal["ok", "stopping", "broken"]
    model: ModelName
    problem: str | None = Field(description="Why a new version couldn't be loaded; the present one stays in use.")
