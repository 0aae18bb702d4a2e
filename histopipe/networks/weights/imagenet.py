"""Weights that others trained on ImageNet and published."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import URLError

from histopipe.core.errors import UnreachableError, WeightsError, one_line

if TYPE_CHECKING:
    import keras

SQUEEZENET_FILE = "squeezenet_weights_tf_dim_ordering_tf_kernels_notop.h5"
SQUEEZENET_URL = f"https://github.com/rcmalli/keras-squeezenet/releases/download/v1.0/{SQUEEZENET_FILE}"
SILENCE = 60.0  # seconds without a response, after which a server counts as unreachable
NETWORK_ERRORS = (URLError, HTTPException, ConnectionError, TimeoutError, ssl.SSLError)
OTHER_CHOICES = "give a file's path, models:/name@alias, or random"


def bring_imagenet(backbone: str | None, key: str, folder: Path) -> tuple[Path, dict[str, str]]:
    """Fetch the published weights of a backbone into `folder`.

    SqueezeNet's come as the file that was published. Those of `keras.applications` are fetched by Keras itself, which
    knows their addresses and checksums and keeps its own cache; what is kept here is the backbone made from them.

    Args:
        backbone: name of the backbone; None where the architecture has none.
        key: key of the recipe, for messages.
        folder: folder for the file.

    Returns:
        The file and where it came from.

    Raises:
        UnreachableError: the weights can't be fetched now.
        WeightsError: there are no such weights, or another file was received.
        OSError: the file can't be written.
    """
    if backbone is None:
        raise WeightsError(f"{key}: there are no published imagenet weights for this architecture: {OTHER_CHOICES}")
    from histopipe.networks.architectures.backbones import require_backbone

    name = require_backbone(backbone)
    if name == "alexnet":
        raise WeightsError(f"{key}: there are no imagenet weights for alexnet in Keras' format: {OTHER_CHOICES}")
    with _errors_in_one_line(key, name):
        return _fetch_squeezenet(folder) if name == "squeezenet" else _fetch_published(name, folder)


def _fetch_squeezenet(folder: Path) -> tuple[Path, dict[str, str]]:
    import keras

    file = keras.utils.get_file(SQUEEZENET_FILE, SQUEEZENET_URL, cache_dir=folder, cache_subdir="")
    return Path(file), {"url": SQUEEZENET_URL}


def _fetch_published(name: str, folder: Path) -> tuple[Path, dict[str, str]]:
    import keras

    from histopipe.networks.architectures.backbones import build_backbone
    from histopipe.networks.architectures.backbones.published import build_original, constructors, copy_weights

    published: keras.Model = build_original(name, weights="imagenet")
    backbone = build_backbone(name, int(published.input_shape[1] or 224))
    copy_weights(published, backbone)
    file = folder / f"{name}.weights.h5"
    backbone.save_weights(file)
    return file, {"publisher": f"keras.applications.{constructors()[name].__name__}, Keras {keras.__version__}"}


@contextmanager
def _errors_in_one_line(key: str, name: str) -> Iterator[None]:
    """Turn Keras' errors into one line, with a time limit on the network; the command reports faults of the disk.

    Raises:
        UnreachableError: the server doesn't respond, or the connection breaks.
        WeightsError: the file received isn't the published one.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE)
    weights = f"{key}: imagenet weights for {name}"
    try:
        yield
    except Exception as problem:
        reason = one_line(problem, 200)
        if _is_of_network(problem):
            message = f"{weights} can't be fetched ({reason})"
            raise UnreachableError(message, f"connect once, or {OTHER_CHOICES}") from None
        if isinstance(problem, ValueError):
            raise WeightsError(f"{weights} were received damaged ({reason}): fetch again, or {OTHER_CHOICES}") from None
        raise
    finally:
        socket.setdefaulttimeout(before)


def _is_of_network(problem: Exception) -> bool:
    """Return whether the network failed, rather than the disk or the file.

    Keras raises bare exceptions where a server refuses.
    """
    return type(problem) is Exception or isinstance(problem, NETWORK_ERRORS)
