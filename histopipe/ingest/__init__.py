"""From an archive to the packed store: list, decode in parallel, write shards, index and report."""

from histopipe.ingest.stage import ingest

__all__ = ["ingest"]
