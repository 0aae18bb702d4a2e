"""Synthetic BreakHis: fields of view of breast tumours at four magnifications, benign or malignant by patient."""
