"""MLflow's registry as promotion uses it: versions with tags, and two aliases."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from histopipe.core.errors import BusyError
from histopipe.core.locking import exclusive_lock
from histopipe.core.stages.running import LOCK_SECONDS
from histopipe.core.workspace import Workspace
from histopipe.tracking.runs import iterate_pages
from histopipe.tracking.stores import errors_in_one_line, open_client, registered_model_name

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION, CHALLENGER = "champion", "challenger"
IDENTITY, TRAINING, ROLLED_BACK, PREVIOUS = "identity", "training_run", "rolled_back", "previous_champion"


@dataclass(frozen=True)
class Registry:
    """The versions of one registered model. Each method makes one or a few calls, each of which is a transaction.

    Attributes:
        name: name of the registered model.
        client: client of the store that holds it.
    """

    name: str
    client: MlflowClient

    def aliases(self) -> dict[str, str]:
        """Return the version number by alias; empty where there is no such model yet."""
        from mlflow.exceptions import MlflowException

        try:
            return {name: str(number) for name, number in self.client.get_registered_model(self.name).aliases.items()}
        except MlflowException as problem:
            if problem.error_code == "RESOURCE_DOES_NOT_EXIST":
                return {}
            raise

    def version_at(self, alias: str) -> ModelVersion | None:
        """Return the version that an alias points to; None where there is no such alias."""
        number = self.aliases().get(alias)
        return None if number is None else self.client.get_model_version(self.name, number)

    def version(self, number: str) -> ModelVersion | None:
        """Return a version by its number; None where it has been deleted."""
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_model_version(self.name, number)
        except MlflowException as problem:
            if problem.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise

    def versions_of_training(self, training: str) -> list[ModelVersion]:
        """List the versions made from one training, by ascending number."""
        condition = f"name = '{self.name}' and tags.{TRAINING} = '{training}'"
        return sorted(self.client.search_model_versions(condition), key=lambda version: int(version.version))

    def versions(self) -> list[ModelVersion]:
        """List every version, by ascending number."""
        condition = f"name = '{self.name}'"
        listed = iterate_pages(lambda token: self.client.search_model_versions(condition, page_token=token))
        return sorted(listed, key=lambda version: int(version.version))

    def model_tags(self) -> dict[str, str]:
        """Return the tags of the registered model itself; empty where there is no model yet."""
        from mlflow.exceptions import MlflowException

        try:
            return dict(self.client.get_registered_model(self.name).tags)
        except MlflowException as problem:
            if problem.error_code == "RESOURCE_DOES_NOT_EXIST":
                return {}
            raise

    def tag_model(self, key: str, value: str) -> None:
        """Set a tag of the registered model itself: one row. Several processes may set the same tag at once."""
        from mlflow.exceptions import MlflowException

        try:
            self.client.set_registered_model_tag(self.name, key, value)
        except MlflowException:  # two that insert one row: the database lets one of them
            if self.model_tags().get(key) != value:
                raise

    def versions_of_identity(self, tags: Mapping[str, str]) -> list[ModelVersion]:
        """List the versions with the identity in `tags`; several where the files of the first one were lost."""
        return [
            version
            for version in self.versions_of_training(tags[TRAINING])
            if version.tags.get(IDENTITY) == tags[IDENTITY]
        ]

    def register(
        self,
        model_id: str,
        run_id: str,
        tags: Mapping[str, str],
        card: str,
        usable: Callable[[ModelVersion], bool] = lambda version: True,
        replaced: tuple[str, ...] = (),
    ) -> ModelVersion:
        """Return the version with the identity in `tags`: an existing one with its tags updated, or a new one.

        Args:
            model_id: id of the logged model that a new version is made from.
            run_id: id of the run that logged it.
            tags: tags, identity and training among them.
            card: the version's description.
            usable: decides whether an existing version can be used.
            replaced: prefixes of keys; an existing version keeps only those keys that are in `tags`.
        """
        existing = next(filter(usable, self.versions_of_identity(tags)), None)
        if existing is None:
            self.require_model()
            return self.client.create_model_version(
                self.name, f"models:/{model_id}", run_id, dict(tags), description=card, model_id=model_id
            )
        self.tag(existing, tags)
        for key in sorted(existing.tags):
            if key.startswith(replaced) and key not in tags:
                self.untag(existing, key)
        self.client.update_model_version(self.name, existing.version, card)
        return existing

    def require_model(self) -> None:
        """Create the registered model, unless it exists."""
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(self.name)
        except MlflowException as problem:
            if problem.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def tag(self, version: ModelVersion, tags: Mapping[str, str]) -> None:
        """Set tags of a version, one by one, in their order."""
        for key, value in tags.items():
            self.client.set_model_version_tag(self.name, version.version, key, value)

    def untag(self, version: ModelVersion, key: str) -> None:
        """Remove a tag, if it exists."""
        if key in version.tags:
            self.client.delete_model_version_tag(self.name, version.version, key)

    def set_champion(self, version: ModelVersion, instead_of: str | None) -> None:
        """Move the alias `champion` to a version: one row of the database, so there is always exactly one champion.

        Args:
            version: the new champion.
            instead_of: number of the champion that the version was compared with.

        Raises:
            BusyError: another machine moved the alias meanwhile (the lock covers one checkout).
        """
        if self.aliases().get(CHAMPION) != instead_of:
            raise BusyError(f"the champion of {self.name} changed meanwhile: run the same command again")
        self.client.set_registered_model_alias(self.name, CHAMPION, str(version.version))
        self.remove_challenger(version)

    def set_challenger(self, version: ModelVersion) -> None:
        """Move the alias `challenger` to a version."""
        self.client.set_registered_model_alias(self.name, CHALLENGER, str(version.version))

    def remove_challenger(self, version: ModelVersion) -> None:
        """Remove the alias `challenger` from a version that has it."""
        if self.aliases().get(CHALLENGER) == str(version.version):
            self.client.delete_registered_model_alias(self.name, CHALLENGER)


@contextmanager
def locked_registry(dataset: str, workspace: Workspace) -> Iterator[Registry]:
    """Open the registry for one process of this checkout at a time.

    Raises:
        BusyError: another promotion or rollback holds it for longer than a killed one takes to end.
        TrackingUnreachableError: the registry can't be reached, or the connection breaks.
    """
    path = workspace.checkout_lock(f"registry-{dataset}")
    busy = f"another promotion of {dataset} is under way: wait for it to end, then run again"
    with exclusive_lock(path, busy, LOCK_SECONDS), open_registry(dataset, workspace) as registry:
        yield registry


@contextmanager
def open_registry(dataset: str, workspace: Workspace) -> Iterator[Registry]:
    """Open the registry for reading.

    Raises:
        TrackingUnreachableError: the registry can't be reached.
    """
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    with errors_in_one_line(workspace):
        yield Registry(registered_model_name(dataset, workspace), open_client(workspace))
