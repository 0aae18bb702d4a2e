"""Ingest: `stage.ingest` lists an archive, decodes its patches in parallel and writes shards, index and `report.json`.

Nothing is imported here, so that worker processes load only what they need from this package.
"""
