"""Hyper-parameter search: an Optuna study over a recipe's ranges, whose trials are trainings scored on validation.

A trial is the train stage with other values, folders of its own and an MLflow run under the search's; test cases are
never looked at. What is found is written as a recipe.
"""
