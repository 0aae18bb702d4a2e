"""Prefect tasks: thin wrappers of DVC stages.

A task runs its stage as a child process and publishes the stage's outputs; it computes nothing itself.
"""
