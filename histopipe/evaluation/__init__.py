"""Evaluation of a trained network: calibration and threshold from validation, metrics with intervals from test."""
