"""What the API answers, for its description; answers themselves go out unchecked, since checks cost time."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field


class ModelName(BaseModel):
    """Which model answered."""

    name: str
    version: str = Field(description="In the registry; of a folder the start of its network's SHA-256.")


class Grade(BaseModel):
    """One image's."""

    name: str | None = Field(description="Of the file, as it was sent.")
    probability: float = Field(ge=0, le=1, description="Of the positive class, calibrated.")
    decision: Literal[0, 1] = Field(description="1: at or above the threshold.")
    label: str = Field(description="The class that the decision stands for.")


class Prediction(BaseModel):
    """Of every image, in the order in which they were sent."""

    model: ModelName
    threshold: float
    positive_class: str
    predictions: list[Grade]


class Explanation(Grade):
    """One image's grade, and why."""

    model: ModelName
    threshold: float
    positive_class: str
    overlay: str = Field(
        description="PNG in base64, of the patch's size: orange speaks for the positive class, purple against it."
    )


class Bounds(BaseModel):
    """What one client may ask for."""

    images: int
    pixels: int
    body_bytes: int
    upload_bytes: int


class Description(BaseModel):
    """The model in use."""

    model: ModelName
    data_set: str
    positive_class: str
    negative_class: str
    threshold: float
    rule: str | None
    temperature: float | None
    patch_size: list[int] = Field(description="Height and width in pixels.")
    resized: bool = Field(description="Whether images of other sizes are resized; else smaller ones are padded.")
    precision: str
    loaded: float = Field(description="When, in seconds since 1970.")
    limits: Bounds
    card: str = Field(description="The model card, Markdown.")


class JobState(BaseModel):
    """How far a slide or archive has come."""

    id: str
    name: str
    state: Literal["uploading", "waiting", "running", "done", "failed", "cancelled"]
    step: str
    done: int = Field(description="Patches so far.")
    total: int | None = Field(description="Of how many; null where that isn't known.")
    error: str | None
    model: ModelName
    created: float = Field(description="When, in seconds since 1970.")


class Case(BaseModel):
    """One case of a slide or archive."""

    case_id: str
    patches: int
    positive: int
    positive_share: float
    mean_probability: float
    placed: int = Field(description="Patches whose place is known.")
    map: bool = Field(description="Whether there is a map of it.")
    tissue: bool = Field(description="Whether there is a picture of its tissue.")


class Result(BaseModel):
    """What came out of a slide or archive."""

    id: str
    name: str
    model: ModelName
    threshold: float
    positive_class: str
    summary: dict[str, Any] = Field(description="As `histopipe predict` writes it.")
    cases: list[Case]


class Patches(BaseModel):
    """A case's patches, one list per column."""

    case_id: str
    x: list[int | None]
    y: list[int | None]
    width: list[int]
    height: list[int]
    probability: list[float]


class Example(BaseModel):
    """A drawn patch."""

    name: str
    drawn_as: str = Field(description="The class whose likeness was drawn.")
    image: str = Field(description="PNG in base64.")


class Health(BaseModel):
    """Whether requests are answered, and by what."""

    status: Literal["ok", "stopping", "broken"]
    model: ModelName
    problem: str | None = Field(description="Why a new version couldn't take over; the one in use goes on.")
