"""Choices of names in the forms of Prefect's UI, as `params.yaml` lists them.

They are read when a flow's parameters are described, which `prefect deploy` does: a name added later is offered and
accepted by the deployments once they are deployed again. Commands accept every name that `params.yaml` has when they
run.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any, Literal

from pydantic import GetJsonSchemaHandler
from pydantic_core import CoreSchema

from histopipe.core.errors import HistopipeError
from histopipe.core.params import read_params
from histopipe.core.workspace import Workspace


class Listed:
    """A marker of a text as one of the names under a key of `params.yaml`."""

    def __init__(self, key: Literal["datasets", "architectures", "sources", "recipes"]) -> None:
        self._key = key

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Return the text's JSON schema, with the names as choices."""
        description = handler(schema)
        with suppress(HistopipeError):  # the flow itself reads the parameters and reports the error
            description["enum"] = list(getattr(read_params(Workspace.find().params), self._key))
        return description


ListedDataset = Annotated[str, Listed("datasets")]
ListedArchitecture = Annotated[str, Listed("architectures")]
AnyDataset = Annotated[str, Listed("sources")]
AnyRecipe = Annotated[str, Listed("recipes")]
