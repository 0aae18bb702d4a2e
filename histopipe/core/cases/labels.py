"""The classes that the labels of patches contain."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def holds_both_classes(labels: ArrayLike) -> bool:
    """Return whether labels contain both classes (0 and 1); otherwise threshold and ROC AUC are undefined.

    Args:
        labels: labels of patches, (patches,); may be empty.

    Example:
        >>> holds_both_classes([0, 0, 1]), holds_both_classes([1, 1]), holds_both_classes([])
        (True, False, False)
    """
    positive = np.asarray(labels) == 1
    return bool(positive.any() and not positive.all())
