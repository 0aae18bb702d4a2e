"""The `histopipe` command, one module per group of commands."""

from histopipe.cli import experiments, maintenance, predict, serve, stages
from histopipe.cli.command import main

__all__ = ["experiments", "main", "maintenance", "predict", "serve", "stages"]
