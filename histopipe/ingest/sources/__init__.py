"""Sources of archives, and the stages `locate` (identify the current version) and `fetch` (copy or download it).

`locate` writes a small record that changes only when the source does, so that no stage runs for an unchanged source.
Each kind of source is one module, which is imported only if `params.yaml` uses it.
"""
