"""Which classes the labels of patches hold."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def holds_both_classes(labels: ArrayLike) -> bool:
    """Tell whether labels hold the positive class (1) and the other (0): without, no threshold or ROC AUC is defined.

    Args:
        labels: of patches, (patches,); there may be none.

    Example:
        >>> holds_both_classes([0, 0, 1]), holds_both_classes([1, 1]), holds_both_classes([])
        (True, False, False)
    """
    positive = np.asarray(labels) == 1
    return bool(positive.any() and not positive.all())
