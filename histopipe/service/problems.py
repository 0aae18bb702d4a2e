"""Refusals: JSON with a reason, in the form of RFC 9457 (`application/problem+json`)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

MEDIA_TYPE = "application/problem+json"


class Fault(BaseModel):
    """What is wrong with one image or parameter."""

    name: str = Field(description="Of the image's file, or of the parameter.")
    reason: str


class Problem(BaseModel):
    """Why a request was refused."""

    title: str = Field(description="The status in words.")
    status: int
    detail: str = Field(description="What is wrong, and what to do about it.")
    errors: list[Fault] | None = Field(default=None, description="One entry for each image that can't be graded.")


class Refused(Exception):
    """A request that isn't answered; becomes a response with this status and reason."""

    def __init__(
        self,
        status: int,
        detail: str,
        errors: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.errors, self.headers = status, detail, errors, dict(headers or {})

    def response(self) -> Response:
        """The answer."""
        return problem_response(self.status, self.detail, self.errors, self.headers)


def busy(detail: str, seconds: int) -> Refused:
    """A refusal that says when to come back."""
    return Refused(429, f"{detail}: try again later", headers={"Retry-After": str(max(1, seconds))})


def problem_response(
    status: int, detail: str, errors: Sequence[tuple[str, str]] = (), headers: Mapping[str, str] | None = None
) -> Response:
    """A refusal as it is sent."""
    content: dict[str, object] = {"title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    if errors:
        content["errors"] = [{"name": name, "reason": reason} for name, reason in errors]
    body = json.dumps(content, ensure_ascii=True).encode()
    return Response(body, status, headers, MEDIA_TYPE)


def described(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For the OpenAPI description: these statuses come with a `Problem`."""
    schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {status: {"description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: schema}} for status in statuses}


def answer_problems(app: FastAPI) -> None:
    """Have every refusal of the application, also those of its framework, answered as a `Problem`."""

    @app.exception_handler(Refused)
    async def refused(_: Request, problem: Refused) -> Response:
        return problem.response()

    @app.exception_handler(HTTPException)
    async def http(_: Request, problem: HTTPException) -> Response:
        return problem_response(problem.status_code, str(problem.detail), headers=problem.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, problem: RequestValidationError) -> Response:
        errors = [(".".join(map(str, one["loc"])), str(one["msg"])) for one in problem.errors()]
        return problem_response(422, "the request's parameters are not as described", errors)

    @app.exception_handler(Exception)
    async def failed(_: Request, __: Exception) -> Response:
        return problem_response(500, "the server failed at this request; its log says more")
