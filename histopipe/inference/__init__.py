"""Prediction of new patches and whole slides with a served model: `histopipe predict`."""
