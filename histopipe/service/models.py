"""The model in use: load it with its card, and replace it when its alias in the registry moves to a new version."""

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

from histopipe.core.errors import HistopipeError, PredictionError, one_line
from histopipe.core.files import file_digest
from histopipe.core.operating_point import OperatingPoint
from histopipe.core.workspace import Workspace
from histopipe.inference.model import CHAMPION, ServedModel, champion_address, load_served_model
from histopipe.networks.openvino import Precision
from histopipe.networks.prediction import logit_network
from histopipe.networks.predictor import Predictor, ready_predictor
from histopipe.tracking.problems import store_error
from histopipe.tracking.provenance import relate
from histopipe.tracking.stores import errors_in_one_line, open_client

if TYPE_CHECKING:
    from histopipe.tracking.entities import ModelVersion

RETRY_SECONDS = 60.0  # before a version that couldn't be loaded is tried again
DIGEST = 12  # characters of the network's digest that serve as the version of a folder

LOG = logging.getLogger(__name__)

_ALIAS = re.compile(r"models:/(?P<name>[^/@]+)@(?P<alias>[^/@]+)")
_VERSION = re.compile(r"(?:models|runs):/(?P<name>[^/@]+)(?:/(?P<version>[^/@]+))?")


@dataclass(frozen=True)
class ModelRequest:
    """The model that the service was started with.

    Attributes:
        model: address of the model, as `histopipe.inference.model.load_served_model` accepts it.
        dataset: data set of the model.
        workspace: workspace with the tracking store.
        precision: number type that the model computes with.
        mpp: pixel size of the model's patches in micrometres; None for that of the data set.
    """

    model: str
    dataset: str
    workspace: Workspace
    precision: Precision = "float32"
    mpp: float | None = None

    @cached_property
    def alias(self) -> tuple[str, str] | None:
        """Name of the registered model and the alias that is followed; None if one version is requested."""
        address = champion_address(self.dataset, self.workspace) if self.model == CHAMPION else self.model
        match = _ALIAS.fullmatch(address)
        return (match["name"], match["alias"]) if match else None

    @cached_property
    def follows_champion(self) -> bool:
        """Return whether the champion of the data set is requested, whichever version it is."""
        return self.model in (CHAMPION, champion_address(self.dataset, self.workspace))


@dataclass(frozen=True)
class Model:
    """A loaded model.

    Attributes:
        name: name in the registry, or of the folder.
        version: version in the registry; for a folder the digest of its network.
        address: address by which exactly this version can be loaded again.
        served: network and operating point.
        engine: predictor of patches.
        card: model card in Markdown.
        loaded: time at which it was loaded, in seconds since 1970.
    """

    name: str
    version: str
    address: str
    served: ServedModel
    engine: Predictor
    card: str
    loaded: float = field(default_factory=time.time)

    @property
    def identity(self) -> dict[str, str]:
        """Name and version, which every response contains."""
        return {"name": self.name, "version": self.version}

    @property
    def point(self) -> OperatingPoint:
        """The operating point."""
        return self.served.point


def load(request: ModelRequest, version: str | None = None) -> Model:
    """Load a model and prepare it for prediction.

    Args:
        request: the model to load.
        version: version that the alias points to; None to look it up.

    Raises:
        PredictionError: there is no such model, or it isn't one of this project's.
        TrackingUnreachableError: the tracking store can't be reached.
        InferenceError: the model can't be used in the requested precision.
    """
    address = request.model
    if request.alias:
        version = version or aliased_version(request)
        address = f"models:/{request.alias[0]}/{version}" if version else address
    served = load_served_model(address, request.dataset, request.workspace, request.follows_champion)
    name, number = _identify(address)
    engine = ready_predictor(logit_network(served.network), served.patch_size, request.precision)
    return Model(name, number, address, served, engine, _card(served, name, number, request))


def load_copy(request: ModelRequest, scratch: Path) -> Model:
    """Load a model like `load`, but copy it first if it is a folder.

    Jobs load the model again; the copy lets the folder be overwritten while it is served.

    Args:
        request: the model to load.
        scratch: folder to copy it into.

    Raises:
        PredictionError, TrackingUnreachableError, InferenceError: as in `load`.
    """
    folder = Path(request.model)
    if request.alias or _VERSION.match(request.model) or not (folder / "MLmodel").is_file():
        return load(request)
    copy = scratch / "model" / folder.resolve().name
    try:
        shutil.copytree(folder, copy)
        return load(replace(request, model=str(copy)))
    except (OSError, shutil.Error) as problem:
        raise PredictionError(f"{folder} can't be copied ({problem}): make sure that nothing else writes it") from None
    except PredictionError as problem:
        raise PredictionError(str(problem).replace(str(copy), request.model)) from None


def aliased_version(request: ModelRequest) -> str | None:
    """Return the version that the requested alias points to; None if it isn't set.

    Raises:
        TrackingUnreachableError: the tracking store can't be reached.
    """
    from histopipe.tracking.registry import Registry

    assert request.alias
    name, alias = request.alias
    with errors_in_one_line(request.workspace):
        return Registry(name, open_client(request.workspace)).aliases().get(alias)


def _identify(address: str) -> tuple[str, str]:
    """Return name and version of the model at an address."""
    if match := _VERSION.match(address):
        return match["name"], match["version"] or match["name"]
    folder = Path(address).resolve()
    network = next(iter(sorted(folder.rglob("*.keras"))))
    return folder.name, file_digest(network)[:DIGEST]


def _card(served: ServedModel, name: str, version: str, request: ModelRequest) -> str:
    """Return the model card that promotion wrote, or a short one for a model that isn't registered."""
    with suppress(HistopipeError), errors_in_one_line(request.workspace):
        if served.name.startswith("models:/") and version.isdigit():
            client = open_client(request.workspace)
            registered = client.get_model_version(name, version)
            return _full_card(registered, client) or registered.description or _short_card(served)
    return _short_card(served)


def _full_card(version: ModelVersion, client: Any) -> str | None:
    from histopipe.networks.weights.registered import kept_folder
    from histopipe.promotion.card import CARD_FILE

    with suppress(store_error(), OSError), TemporaryDirectory() as scratch:
        path = client.download_artifacts(version.run_id, f"{kept_folder(version)}/{CARD_FILE}", scratch)
        return Path(path).read_text(encoding="utf-8")
    return None


def _short_card(served: ServedModel) -> str:
    point, (height, width) = served.point, served.patch_size
    return (
        f"# {point['data_set']}\n\n"
        "**Research use only.** Not a medical device; no clinical decision may rest on it.\n\n"
        f"Predicts the probability that a patch of {width} x {height} pixels is {point['positive_class']} rather than "
        f"{point['negative_class']}. The threshold is {point['threshold']:.4f}.\n\n"
        "This model isn't registered, so it has no record of what it was trained and evaluated on.\n"
    )


def require_same_data(model: Model, in_use: Model) -> None:
    """Check that a new version was made from the same data as the model in use, which clients expect.

    Raises:
        PredictionError: the new version is known to be made from other data.
    """
    made_from, before = model.served.made_from, in_use.served.made_from
    if made_from is None or before is None:
        return
    relation = relate(made_from, before)
    if relation.verdict == "other":
        raise PredictionError(
            f"it is made from other data than the one in use, {relation.reason}; restart the service to use it"
        )


def freeze_loaded_objects() -> None:
    """Exclude all present objects from Python's full garbage collections, which would delay every request.

    TensorFlow, Keras and MLflow alone create a million objects, whose traversal takes half a second.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


class ModelReloader:
    """Holder of the model in use, with a thread that reloads it when its alias moves.

    A new version is loaded while the old one is in use and then replaces it. Requests that began with the old version
    end with it; then its memory is released. If the new version can't be loaded, the old one stays in use and `problem`
    says why.

    Args:
        request: the model that is served.
        model: the version that is loaded already.
        interval: seconds between two checks of the registry.
        on_reload: is called after every attempt, with whether the new version was loaded.
    """

    def __init__(self, request: ModelRequest, model: Model, interval: float, on_reload: Callable[[bool], None]) -> None:
        self.model = model
        self.problem: str | None = None
        self._request, self._interval, self._on_reload = request, interval, on_reload
        self._stop = threading.Event()
        self._failed: tuple[str, float] | None = None  # version that couldn't be loaded, and when to try it again
        self._replaced: list[weakref.ref[Model]] = []
        self._thread = threading.Thread(target=self._run, name="follow-alias", daemon=True)
        if request.alias and interval > 0:
            self._thread.start()

    def close(self) -> None:
        """Stop following the alias."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            self.check()

    def check(self) -> None:
        """Check once where the alias points, and load a new version if there is one."""
        self._collect_replaced()
        try:
            version = aliased_version(self._request)
            if version is None:
                self.problem = f"{self._request.model} is not set: version {self.model.version} stays in use"
            elif version == self.model.version:
                self.problem = self._failed = None
            elif not self._has_failed_recently(version):
                self._replace(version)
        except Exception as problem:  # whatever it is, the present model stays in use
            self.problem = _describe(problem)

    def _collect_replaced(self) -> None:
        """Release the memory of replaced models whose last request or job is over."""
        held = [reference for reference in self._replaced if reference() is not None]
        if len(held) < len(self._replaced):
            self._replaced = held
            freeze_loaded_objects()

    def _has_failed_recently(self, version: str) -> bool:
        return self._failed is not None and self._failed[0] == version and time.monotonic() < self._failed[1]

    def _replace(self, version: str) -> None:
        try:
            model = load(self._request, version)
            require_same_data(model, self.model)
        except Exception as problem:
            self._failed = (version, time.monotonic() + RETRY_SECONDS)
            present = self.model.version
            self.problem = f"version {version} can't be loaded ({_describe(problem)}): {present} stays in use"
            LOG.warning("%s", self.problem)
            self._on_reload(False)
            return
        LOG.warning("%s: version %s replaces version %s", model.name, version, self.model.version)
        self._replaced.append(weakref.ref(self.model))
        self.model, self.problem, self._failed = model, None, None
        self._on_reload(True)


def _describe(problem: Exception) -> str:
    message = one_line(str(problem), 300)
    return message if isinstance(problem, HistopipeError) else f"{type(problem).__name__}: {message}"
