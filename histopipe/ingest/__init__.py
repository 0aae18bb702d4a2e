"""From an archive to the packed store: `stage.ingest` lists, decodes in parallel, writes shards, index and report.

Nothing is imported here, since the worker processes load only what they need from this package.
"""
