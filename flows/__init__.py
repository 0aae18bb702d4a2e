"""Prefect flows: chain tasks, decide nothing else."""
