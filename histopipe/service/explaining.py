"""Why a patch is called what it is: its map of evidence, as a picture."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from histopipe.core.errors import EvaluationError
from histopipe.service.decoding import GONE, read_patch
from histopipe.service.limits import Limits
from histopipe.service.models import Model
from histopipe.service.problems import Refused, busy
from histopipe.service.reading import Sent, Share

PENDING = 8  # explanations that may wait: each takes as long as many patches


class Explanations:
    """One explanation after the other, in a thread of their own."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._thread = ThreadPoolExecutor(1, "explain")
        self._pending = 0
        self._of: tuple[Model, Any] | None = None

    async def explain(self, model: Model, file: Sent, share: Share, gone: Callable[[], bool]) -> tuple[float, bytes]:
        """Calibrated probability and the overlay, a PNG of the patch's size.

        Args:
            model: that grades it.
            file: the image.
            share: of the memory, which it holds as long as anything works with it.
            gone: whether the client went away; nothing is begun for it then.

        Raises:
            Refused: the image can't be graded, the network can't be explained, or too many are waiting.
        """
        if self._pending >= PENDING:
            raise busy("too many explanations are waiting", 2)
        self._pending += 1
        share.lend()
        work = self._thread.submit(self._explained, model, file, gone)
        work.add_done_callback(lambda _: share.release())  # of one that is cancelled too
        try:
            return await asyncio.wrap_future(work)
        finally:
            self._pending -= 1

    def close(self) -> None:
        """End."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _explained(self, model: Model, file: Sent, gone: Callable[[], bool]) -> tuple[float, bytes]:
        if gone():
            raise Refused(400, GONE)
        import numpy as np
        from PIL import Image

        from histopipe.evaluation.explanation.figures import overlay

        patches = read_patch(file, model, self._limits)[None]
        explainer = self._explainer(model)
        found = overlay(patches[0], explainer.maps(patches)[0])
        stream = io.BytesIO()
        Image.fromarray(np.round(found * 255).astype(np.uint8)).save(stream, "PNG")
        probability = float(np.asarray(model.served.network(patches))[0, 0])
        return probability, stream.getvalue()

    def _explainer(self, model: Model) -> Any:
        from histopipe.evaluation.explanation.maps import Explainer

        if self._of is None or self._of[0] is not model:
            try:
                self._of = (model, Explainer.of(model.served.network))
            except EvaluationError as problem:
                raise Refused(501, f"this model can't be explained ({problem})") from None
        return self._of[1]
