"""`python -m tests.integration.ingest_side`: ingest in a process of its own, whose memory can be watched."""

import json

from histopipe.core.params import read_params
from histopipe.core.workspace import Workspace
from histopipe.ingest.stage import ingest

if __name__ == "__main__":
    workspace = Workspace.find()
    print(json.dumps({"patches": ingest("idc", read_params(workspace.params), workspace)["patches"]}))
