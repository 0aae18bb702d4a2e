"""histopipe: from an archive of pathology patches to compared, served models."""

__version__ = "0.1.0"
