"""The `histopipe` command, one module per group of commands."""

from histopipe.cli import care, experiments, predict, serve, stages
from histopipe.cli.command import main

__all__ = ["care", "experiments", "main", "predict", "serve", "stages"]
