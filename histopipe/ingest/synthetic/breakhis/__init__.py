"""Fields of breast tumours as BreakHis has them: four magnifications, benign or malignant by patient."""
