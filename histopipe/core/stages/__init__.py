"""Stages as processes: locked, watched, with their inputs on record."""
