"""Grading a trained network: calibration and threshold from validation, numbers with intervals from test."""
