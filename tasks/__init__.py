"""Prefect tasks: thin coats over DVC stages.

A task runs its stage as a child process and publishes what the stage wrote; it computes nothing itself.
"""
