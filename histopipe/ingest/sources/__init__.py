"""Where raw archives come from: the stages `locate` (which bytes are there?) and `fetch` (bring them here).

`locate` writes a small record that changes only when the source does, so that an unchanged source runs
nothing else. Each kind of source is one module, imported only when `params.yaml` asks for it.
"""
