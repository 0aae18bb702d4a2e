"""What everything else stands on: parameters, the workspace, files, errors, stages as processes."""
