"""Detection of drift: a comparison, case by case, of new patches with the patches that a model was made from."""
