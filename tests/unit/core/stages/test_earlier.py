"""A checkout that an earlier version of histopipe has worked in."""

from __future__ import annotations

import yaml

from histopipe.core.stages.earlier import upgrade_note
from histopipe.core.workspace import Workspace


def record(workspace: Workspace, **stages: list[str]) -> None:
    (workspace.root / "histopipe").mkdir(exist_ok=True)
    (workspace.root / "histopipe/here.py").touch()
    deps = {name: {"deps": [{"path": path, "md5": "0" * 32} for path in paths]} for name, paths in stages.items()}
    workspace.dvc_lock.write_text(yaml.safe_dump({"schema": "2.0", "stages": deps}))


def test_what_an_upgrade_makes_train_again_is_said_with_the_way_to_keep_it(workspace: Workspace) -> None:
    record(
        workspace,
        **{
            "train@idc-cancernet": ["data/store/idc", "histopipe/gone.py"],
            "train@idc-resnet": ["histopipe/here.py"],
            "train@malaria-resnet": ["histopipe/gone.py"],
            "evaluate@idc-cancernet": ["histopipe/gone.py"],
        },
    )
    note = upgrade_note("idc", workspace)
    assert note and note.startswith("idc: cancernet will be trained again: ")
    assert note.endswith("`dvc commit --force train@idc-cancernet`")


def test_nothing_is_said_where_nothing_moved(workspace: Workspace) -> None:
    assert upgrade_note("idc", workspace) is None
    record(workspace, **{"train@idc-cancernet": ["data/gone", "histopipe/here.py"]})
    assert upgrade_note("idc", workspace) is None
    workspace.dvc_lock.write_text("stages: [odd]\n")
    assert upgrade_note("idc", workspace) is None
