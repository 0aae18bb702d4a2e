"""Explanations of predictions: evidence maps drawn over the patches."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from histopipe.core.errors import EvaluationError
from histopipe.service.decoding import CLIENT_GONE, read_patch
from histopipe.service.limits import Limits
from histopipe.service.models import Model
from histopipe.service.problems import RequestError, busy_error
from histopipe.service.reading import MemoryShare, UploadedFile

MAX_PENDING = 8  # explanations that may wait: each takes as long as many patches


class ExplanationQueue:
    """A queue of explanations, which one thread computes one after the other.

    Args:
        limits: limits on images.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._thread = ThreadPoolExecutor(1, "explain")
        self._pending = 0
        self._latest: tuple[Model, Any] | None = None  # the last model with its explainer

    async def explain(
        self, model: Model, file: UploadedFile, memory: MemoryShare, is_gone: Callable[[], bool]
    ) -> tuple[float, bytes]:
        """Predict one image and explain the prediction.

        Args:
            model: the model to predict with.
            file: the image.
            memory: the memory of the request, held until the explanation is done.
            is_gone: returns whether the client went away; its image is then not explained.

        Returns:
            The calibrated probability, and the overlay as a PNG of the patch's size.

        Raises:
            RequestError: the image can't be predicted, the network can't be explained, or too many requests wait.
        """
        if self._pending >= MAX_PENDING:
            raise busy_error("too many explanations are waiting", 2)
        self._pending += 1
        memory.retain()
        work = self._thread.submit(self._explain, model, file, is_gone)
        work.add_done_callback(lambda _: memory.release())  # also called if it is cancelled
        try:
            return await asyncio.wrap_future(work)
        finally:
            self._pending -= 1

    def close(self) -> None:
        """Cancel the explanations that wait and end the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _explain(self, model: Model, file: UploadedFile, is_gone: Callable[[], bool]) -> tuple[float, bytes]:
        if is_gone():
            raise RequestError(400, CLIENT_GONE)
        import numpy as np
        from PIL import Image

        from histopipe.evaluation.explanation.figures import overlay

        patches = read_patch(file, model, self._limits)[None]
        explainer = self._explainer(model)
        picture = overlay(patches[0], explainer.maps(patches)[0])
        stream = io.BytesIO()
        Image.fromarray(np.round(picture * 255).astype(np.uint8)).save(stream, "PNG")
        probability = float(np.asarray(model.served.network(patches))[0, 0])
        return probability, stream.getvalue()

    def _explainer(self, model: Model) -> Any:
        from histopipe.evaluation.explanation.maps import Explainer

        if self._latest is None or self._latest[0] is not model:
            try:
                self._latest = (model, Explainer.for_network(model.served.network))
            except EvaluationError as problem:
                raise RequestError(501, f"this model can't be explained ({problem})") from None
        return self._latest[1]
