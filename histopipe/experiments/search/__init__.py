"""Hyper-parameter search: an Optuna study over a recipe's ranges, whose trials are trainings measured on validation.

A trial is the train stage with other values, its own folders and an MLflow run under the search's; test cases are never
looked at. The best trial is written as a recipe.
"""
