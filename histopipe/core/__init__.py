"""Parameters, the workspace, files, errors and stages as processes: what all other packages build on."""
