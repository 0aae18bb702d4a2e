"""Promotion of models to champion: the gates that they must pass, and the rollback."""
