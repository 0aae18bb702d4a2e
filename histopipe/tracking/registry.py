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
from histopipe.tracking.runs import pages
from histopipe.tracking.stores import open_client, registered_model_name, told_in_one_line

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION, CHALLENGER = "champion", "challenger"
IDENTITY, TRAINING, ROLLED_BACK, PREVIOUS = "identity", "training_run", "rolled_back", "previous_champion"


@dataclass(frozen=True)
class Registry:
    """The versions of one registered model. Every method is one or a few calls, each of which is a transaction.

    Attributes:
        name: of the registered model.
        client: of the store that holds it.
    """

    name: str
    client: MlflowClient

    def aliases(self) -> dict[str, str]:
        """Version number by alias; empty where there is no such model yet."""
        from mlflow.exceptions import MlflowException

        try:
            return {name: str(number) for name, number in self.client.get_registered_model(self.name).aliases.items()}
        except MlflowException as problem:
            if problem.error_code == "RESOURCE_DOES_NOT_EXIST":
                return {}
            raise

    def aliased(self, alias: str) -> ModelVersion | None:
        """The version that an alias stands at, if it stands anywhere."""
        number = self.aliases().get(alias)
        return None if number is None else self.client.get_model_version(self.name, number)

    def version(self, number: str) -> ModelVersion | None:
        """A version by its number; None where it has been deleted."""
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_model_version(self.name, number)
        except MlflowException as problem:
            if problem.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise

    def of_training(self, training: str) -> list[ModelVersion]:
        """The versions made from one training, the first one first."""
        asked = f"name = '{self.name}' and tags.{TRAINING} = '{training}'"
        return sorted(self.client.search_model_versions(asked), key=lambda version: int(version.version))

    def versions(self) -> list[ModelVersion]:
        """Every version, the first one first."""
        own = f"name = '{self.name}'"
        listed = pages(lambda token: self.client.search_model_versions(own, page_token=token))
        return sorted(listed, key=lambda version: int(version.version))

    def model_tags(self) -> dict[str, str]:
        """Tags of the registered model itself; none where there is none yet."""
        from mlflow.exceptions import MlflowException

        try:
            return dict(self.client.get_registered_model(self.name).tags)
        except MlflowException as problem:
            if problem.error_code == "RESOURCE_DOES_NOT_EXIST":
                return {}
            raise

    def tag_model(self, key: str, value: str) -> None:
        """Set a tag of the registered model itself: one row. Who makes the same one at the same time doesn't mind."""
        from mlflow.exceptions import MlflowException

        try:
            self.client.set_registered_model_tag(self.name, key, value)
        except MlflowException:  # two that insert one row: the database lets one of them
            if self.model_tags().get(key) != value:
                raise

    def of_identity(self, tags: Mapping[str, str]) -> list[ModelVersion]:
        """The versions of the identity that tags hold; several where the first one's files were lost."""
        return [each for each in self.of_training(tags[TRAINING]) if each.tags.get(IDENTITY) == tags[IDENTITY]]

    def register(
        self,
        model_id: str,
        run_id: str,
        tags: Mapping[str, str],
        card: str,
        usable: Callable[[ModelVersion], bool] = lambda version: True,
        replaced: tuple[str, ...] = (),
    ) -> ModelVersion:
        """The version of these tags' identity: the one there is, with the tags as they are now, or a new one.

        Args:
            model_id: of the logged model that a new one is made from.
            run_id: that logged it.
            tags: hold identity and training.
            card: the version's description.
            usable: whether a version that there is will do.
            replaced: beginnings of keys of which a version that there is keeps none but those in `tags`.
        """
        known = next(filter(usable, self.of_identity(tags)), None)
        if known is None:
            self.require_model()
            return self.client.create_model_version(
                self.name, f"models:/{model_id}", run_id, dict(tags), description=card, model_id=model_id
            )
        self.tag(known, tags)
        for key in sorted(known.tags):
            if key.startswith(replaced) and key not in tags:
                self.untag(known, key)
        self.client.update_model_version(self.name, known.version, card)
        return known

    def require_model(self) -> None:
        """Make the registered model, unless it is there."""
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
        """Remove a tag, if it is there."""
        if key in version.tags:
            self.client.delete_model_version_tag(self.name, version.version, key)

    def crown(self, version: ModelVersion, instead_of: str | None) -> None:
        """Let `champion` stand at a version: one row of the database, so there is always one champion or the other.

        Args:
            version: the new champion.
            instead_of: number of the champion that all was measured against.

        Raises:
            BusyError: somebody else moved the alias meanwhile, as only another machine can: the lock is the checkout's.
        """
        if self.aliases().get(CHAMPION) != instead_of:
            raise BusyError(f"the champion of {self.name} changed meanwhile: run the same command again")
        self.client.set_registered_model_alias(self.name, CHAMPION, str(version.version))
        self.dismiss(version)

    def challenge(self, version: ModelVersion) -> None:
        """Let `challenger` stand at a version."""
        self.client.set_registered_model_alias(self.name, CHALLENGER, str(version.version))

    def dismiss(self, version: ModelVersion) -> None:
        """Take the alias `challenger` away from a version that has it."""
        if self.aliases().get(CHALLENGER) == str(version.version):
            self.client.delete_registered_model_alias(self.name, CHALLENGER)


@contextmanager
def registry_turn(dataset: str, workspace: Workspace) -> Iterator[Registry]:
    """The registry, for one process of this checkout at a time.

    Raises:
        BusyError: another promotion or rollback has it for longer than a dying one takes to end.
        TrackingAwayError: the registry can't be asked or breaks off.
    """
    path = workspace.home_lock(f"registry-{dataset}")
    busy = f"another promotion of {dataset} is under way: wait for it to end, then run again"
    with exclusive_lock(path, busy, LOCK_SECONDS), reading(dataset, workspace) as registry:
        yield registry


@contextmanager
def reading(dataset: str, workspace: Workspace) -> Iterator[Registry]:
    """The registry, to look only.

    Raises:
        TrackingAwayError: it can't be asked.
    """
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    with told_in_one_line(workspace):
        yield Registry(registered_model_name(dataset, workspace), open_client(workspace))
