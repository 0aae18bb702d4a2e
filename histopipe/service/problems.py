"""Error responses: JSON with a status and a reason, in the format of RFC 9457 (`application/problem+json`)."""

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
    """An error about one image or parameter."""

    name: str = Field(description="Name of the image's file, or of the parameter.")
    reason: str


class Problem(BaseModel):
    """The body of an error response (RFC 9457)."""

    title: str = Field(description="The status in words.")
    status: int
    detail: str = Field(description="What is wrong, and what to do about it.")
    errors: list[Fault] | None = Field(default=None, description="One entry for each image that can't be predicted.")


class RequestError(Exception):
    """A request that is refused; becomes a response with this status and reason."""

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
        """Return the response that reports the error."""
        return problem_response(self.status, self.detail, self.errors, self.headers)


def busy_error(detail: str, seconds: int) -> RequestError:
    """Return an error with status 429 that states after how many seconds to try again."""
    return RequestError(429, f"{detail}: try again later", headers={"Retry-After": str(max(1, seconds))})


def problem_response(
    status: int, detail: str, errors: Sequence[tuple[str, str]] = (), headers: Mapping[str, str] | None = None
) -> Response:
    """Return an error response with a `Problem` as its body."""
    content: dict[str, object] = {"title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    if errors:
        content["errors"] = [{"name": name, "reason": reason} for name, reason in errors]
    body = json.dumps(content, ensure_ascii=True).encode()
    return Response(body, status, headers, MEDIA_TYPE)


def describe_problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the part of an OpenAPI description that says that these statuses come with a `Problem`."""
    schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {status: {"description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: schema}} for status in statuses}


def add_error_handlers(app: FastAPI) -> None:
    """Make the application report every error as a `Problem`, those of its framework included."""

    @app.exception_handler(RequestError)
    async def refused(_: Request, problem: RequestError) -> Response:
        return problem.response()

    @app.exception_handler(HTTPException)
    async def http(_: Request, problem: HTTPException) -> Response:
        return problem_response(problem.status_code, str(problem.detail), headers=problem.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, problem: RequestValidationError) -> Response:
        errors = [(".".join(map(str, error["loc"])), str(error["msg"])) for error in problem.errors()]
        return problem_response(422, "the request's parameters are not as described", errors)

    @app.exception_handler(Exception)
    async def failed(_: Request, __: Exception) -> Response:
        return problem_response(500, "the service failed on this request: see its log")
