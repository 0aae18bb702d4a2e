"""The model in use: loaded with its card, and replaced when the registry's alias moves on."""

from __future__ import annotations

import gc
import logging
import re
import shutil
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from histopipe.core.errors import HistopipeError, ScoringError, one_line
from histopipe.core.files import file_digest
from histopipe.core.operating_point import OperatingPoint
from histopipe.core.workspace import Workspace
from histopipe.inference.model import CHAMPION, Served, champion_address, load_served
from histopipe.networks.openvino import Precision
from histopipe.networks.prediction import logit_network
from histopipe.networks.predictor import Predictor, ready_predictor
from histopipe.tracking.problems import store_error
from histopipe.tracking.provenance import relate
from histopipe.tracking.stores import errors_in_one_line, open_client

if TYPE_CHECKING:
    from histopipe.tracking.entities import ModelVersion

RETRY_SECONDS = 60.0  # before a version that couldn't be loaded is tried again
DIGEST = 12  # letters of a file's digest that name a folder's version

LOG = logging.getLogger(__name__)

_ALIAS = re.compile(r"models:/(?P<name>[^/@]+)@(?P<alias>[^/@]+)")
_VERSION = re.compile(r"(?:models|runs):/(?P<name>[^/@]+)(?:/(?P<version>[^/@]+))?")


@dataclass(frozen=True)
class Asked:
    """Which model is wanted.

    Attributes:
        model: as `histopipe.inference.model.load_served` takes it.
        dataset: the model's data set.
        workspace: whose tracking store is asked.
        precision: of the arithmetic.
        mpp: micrometres to a pixel of the model's patches; None to take the data set's.
    """

    model: str
    dataset: str
    workspace: Workspace
    precision: Precision = "float32"
    mpp: float | None = None

    @cached_property
    def alias(self) -> tuple[str, str] | None:
        """The registered model and the alias that is followed; None where one version is asked for."""
        address = champion_address(self.dataset, self.workspace) if self.model == CHAMPION else self.model
        found = _ALIAS.fullmatch(address)
        return (found["name"], found["alias"]) if found else None

    @cached_property
    def follows_champion(self) -> bool:
        """Whether whatever is champion of the data set is wanted."""
        return self.model in (CHAMPION, champion_address(self.dataset, self.workspace))


@dataclass(frozen=True)
class Model:
    """A model that grades.

    Attributes:
        name, version: as the registry has them; of a folder its name and the digest of its network.
        address: by which exactly this version is loaded again.
        served: network and operating point.
        engine: what grades patches.
        card: Markdown.
        loaded: when, in seconds since 1970.
    """

    name: str
    version: str
    address: str
    served: Served
    engine: Predictor
    card: str
    loaded: float = field(default_factory=time.time)

    @property
    def shown(self) -> dict[str, str]:
        """What every response says of it."""
        return {"name": self.name, "version": self.version}

    @property
    def point(self) -> OperatingPoint:
        """The operating point."""
        return self.served.point


def load(asked: Asked, version: str | None = None) -> Model:
    """Load a model and make it ready.

    Args:
        asked: which one.
        version: the one that the alias stands at; looked up where it isn't given.

    Raises:
        ScoringError: there is no such model, or it isn't one of this project's.
        TrackingAwayError: the tracking store can't be asked.
        InferenceError: it can't be had in the precision.
    """
    address = asked.model
    if asked.alias:
        version = version or aliased(asked)
        address = f"models:/{asked.alias[0]}/{version}" if version else address
    served = load_served(address, asked.dataset, asked.workspace, asked.follows_champion)
    name, number = _identity(address)
    engine = ready_predictor(logit_network(served.network), served.patch_size, asked.precision)
    return Model(name, number, address, served, engine, _card(served, name, number, asked))


def load_kept(asked: Asked, scratch: Path) -> Model:
    """As `load`; of a folder's model a copy is kept, for slides: the folder may be written anew while it is served.

    Args:
        asked: which one.
        scratch: where the copy is put.

    Raises:
        ScoringError, TrackingAwayError, InferenceError: as `load`.
    """
    folder = Path(asked.model)
    if asked.alias or _VERSION.match(asked.model) or not (folder / "MLmodel").is_file():
        return load(asked)
    kept = scratch / "model" / folder.resolve().name
    try:
        shutil.copytree(folder, kept)
        return load(replace(asked, model=str(kept)))
    except (OSError, shutil.Error) as problem:
        raise ScoringError(f"{folder} can't be copied ({problem}): see that nothing else writes it") from None
    except ScoringError as problem:
        raise ScoringError(str(problem).replace(str(kept), asked.model)) from None


def aliased(asked: Asked) -> str | None:
    """The version that the alias stands at; None where it stands nowhere.

    Raises:
        TrackingAwayError: the tracking store can't be asked.
    """
    from histopipe.tracking.registry import Registry

    assert asked.alias
    name, alias = asked.alias
    with errors_in_one_line(asked.workspace):
        return Registry(name, open_client(asked.workspace)).aliases().get(alias)


def _identity(address: str) -> tuple[str, str]:
    if found := _VERSION.match(address):
        return found["name"], found["version"] or found["name"]
    folder = Path(address).resolve()
    network = next(iter(sorted(folder.rglob("*.keras"))))
    return folder.name, file_digest(network)[:DIGEST]


def _card(served: Served, name: str, version: str, asked: Asked) -> str:
    """The card that promotion wrote, whole; a short one of a model that was never registered."""
    with suppress(HistopipeError), errors_in_one_line(asked.workspace):
        if served.name.startswith("models:/") and version.isdigit():
            client = open_client(asked.workspace)
            found = client.get_model_version(name, version)
            return _whole_card(found, client) or found.description or _short_card(served)
    return _short_card(served)


def _whole_card(version: ModelVersion, client: Any) -> str | None:
    from histopipe.networks.weights.registered import kept_folder
    from histopipe.promotion.card import CARD_FILE

    with suppress(store_error(), OSError), TemporaryDirectory() as scratch:
        path = client.download_artifacts(version.run_id, f"{kept_folder(version)}/{CARD_FILE}", scratch)
        return Path(path).read_text(encoding="utf-8")
    return None


def _short_card(served: Served) -> str:
    point, (height, width) = served.point, served.patch_size
    return (
        f"# {point['data_set']}\n\n"
        "**Research use only.** Not a medical device; no clinical decision may rest on it.\n\n"
        f"Probability that a patch of {width} x {height} pixels is {point['positive_class']} rather than "
        f"{point['negative_class']}; called so at {point['threshold']:.4f} or more.\n\n"
        "This model isn't registered, so nobody wrote down what it was trained and graded on.\n"
    )


def require_same_data(model: Model, in_use: Model) -> None:
    """Check that a new version may take the place of the one in use: clients asked for answers of that one's data.

    Raises:
        ScoringError: it is known to be made from other data.
    """
    made_from, before = model.served.made_from, in_use.served.made_from
    if made_from is None or before is None:
        return
    relation = relate(made_from, before)
    if relation.verdict == "other":
        raise ScoringError(f"it is made from other data than the one in use, {relation.reason}; start anew to take it")


def spare_from_collection() -> None:
    """Keep what is loaded by now out of Python's full collections, each of which would halt every request meanwhile.

    TensorFlow, Keras and MLflow alone make a million objects, which take half a second to go through.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


class Keeper:
    """The model in use, and a thread that follows the alias.

    A new version is loaded beside the old one and then takes its place. Whoever began with the old one ends with it,
    and then its memory is given back. If the new one can't be loaded the old one stays, and `problem` says why.

    Args:
        asked: which model.
        model: the one that was loaded.
        every: seconds between two looks at the registry.
        changed: is told the outcome of every try: whether the new version was loaded.
    """

    def __init__(self, asked: Asked, model: Model, every: float, changed: Callable[[bool], None]) -> None:
        self.model = model
        self.problem: str | None = None
        self._asked, self._every, self._changed = asked, every, changed
        self._stop = threading.Event()
        self._failed: tuple[str, float] | None = None
        self._replaced: list[weakref.ref[Model]] = []
        self._thread = threading.Thread(target=self._follow, name="follow-alias", daemon=True)
        if asked.alias and every > 0:
            self._thread.start()

    def close(self) -> None:
        """Stop following."""
        self._stop.set()

    def _follow(self) -> None:
        while not self._stop.wait(self._every):
            self.look()

    def look(self) -> None:
        """See where the alias stands, once."""
        self._give_back()
        try:
            version = aliased(self._asked)
            if version is None:
                self.problem = f"{self._asked.model} stands nowhere: version {self.model.version} stays"
            elif version == self.model.version:
                self.problem = self._failed = None
            elif not self._failed_lately(version):
                self._replace(version)
        except Exception as problem:  # whatever it is: the model in use goes on
            self.problem = _named_reason(problem)

    def _give_back(self) -> None:
        """Have a replaced model collected, once the last request or job that began with it is over."""
        still = [model for model in self._replaced if model() is not None]
        if len(still) < len(self._replaced):
            self._replaced = still
            spare_from_collection()

    def _failed_lately(self, version: str) -> bool:
        return self._failed is not None and self._failed[0] == version and time.monotonic() < self._failed[1]

    def _replace(self, version: str) -> None:
        try:
            model = load(self._asked, version)
            require_same_data(model, self.model)
        except Exception as problem:
            self._failed = (version, time.monotonic() + RETRY_SECONDS)
            self.problem = f"version {version} can't be loaded ({_named_reason(problem)}): {self.model.version} stays"
            LOG.warning("%s", self.problem)
            self._changed(False)
            return
        LOG.warning("%s: version %s takes the place of %s", model.name, version, self.model.version)
        self._replaced.append(weakref.ref(self.model))
        self.model, self.problem, self._failed = model, None, None
        self._changed(True)


def _named_reason(problem: Exception) -> str:
    message = one_line(str(problem), 300)
    return message if isinstance(problem, HistopipeError) else f"{type(problem).__name__}: {message}"
