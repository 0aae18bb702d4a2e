"""Breast-histology slides that the project draws itself, in Kaggle's IDC layout.

They let every stage run on a machine with no data and no network, through the same code as the real archive:
cases with a tissue outline, tumour regions, stains that differ from case to case, cut edge patches, and cases
that stand in the archive twice.
"""

from histopipe.synthetic.archive import write_archive
from histopipe.synthetic.plan import SyntheticSlides

__all__ = ["SyntheticSlides", "write_archive"]
