"""Names that `params.yaml` lists, as the forms of Prefect's UI offer them.

Read when a flow's parameters are described, which `prefect deploy` does: a name added later is offered, and taken by
the deployments, once they are deployed again. Commands take every name that `params.yaml` has when they run.
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
    """Marks a text as one of the names under a key of `params.yaml`."""

    def __init__(self, key: Literal["datasets", "architectures", "sources", "recipes"]) -> None:
        self._key = key

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """The text's description, with the names as choices."""
        described = handler(schema)
        with suppress(HistopipeError):  # the flow itself reads the parameters, and says what is wrong
            described["enum"] = list(getattr(read_params(Workspace.around().params), self._key))
        return described


ListedDataset = Annotated[str, Listed("datasets")]
ListedArchitecture = Annotated[str, Listed("architectures")]
AnyDataset = Annotated[str, Listed("sources")]
AnyRecipe = Annotated[str, Listed("recipes")]
