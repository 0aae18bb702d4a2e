"""A model belongs to its data, and its files may be lost: promotion and prediction against a real registry."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from click.testing import CliRunner
from mlflow.tracking._tracking_service.utils import _artifact_repos_cache

from benchmarks.checkouts import NO_FLOORS
from histopipe.cli import main
from histopipe.core.errors import PredictionError, PromotionError
from histopipe.core.files import read_json, write_json
from histopipe.core.workspace import Workspace
from histopipe.data.store import INDEX_FILE
from histopipe.inference.model import load_served_model
from histopipe.operations.doctor.models import check_models
from histopipe.promotion.stage import promote, rollback
from histopipe.service.models import ModelReloader, ModelRequest, load
from histopipe.tracking.relocation import _rename
from tests.builders.promotions import asked, make_evaluated, versions
from tests.builders.registry import NAME, aliases, client, tags

LENIENT = NO_FLOORS | {"margin": 0.9}
REAL = {"name": "idc.zip", "kind": "archive", "source": "/data/idc.zip", "fingerprint": {"sha256": "5eed"}}
DRAWN = {"name": "idc.zip", "kind": "synthetic", "source": "synthetic", "fingerprint": {"seed": 42}}


def made_of(
    workspace: Workspace,
    source: dict[str, Any],
    digests: str = "a",
    capped: bool = False,
    opposite: bool = False,
) -> None:
    """Let a checkout's models be those of a source, in full or capped; other digests are other patches."""
    path = workspace.store("idc") / INDEX_FILE
    index = pd.read_parquet(path)
    index["digest"] = [f"{digests}{number:031x}" for number in range(len(index))]
    index["label"] = 1 - index["label"] if opposite else index["label"]
    index.to_parquet(path, index=False)
    workspace.source("idc").parent.mkdir(parents=True, exist_ok=True)
    write_json(workspace.source("idc"), source)
    for folder in (workspace.root / "models/idc").iterdir():
        record = read_json(folder / "run.json")
        write_json(folder / "run.json", record | {"quick": {"max_epochs": 3} if capped else None})
    for folder in (workspace.root / "evaluations/idc").iterdir() if opposite else ():
        table = pd.read_parquet(folder / "predictions.parquet")
        table.assign(label=1 - table["label"]).to_parquet(folder / "predictions.parquet", index=False)


def crowned(workspace: Workspace, architecture: str, **how: Any) -> bool:
    return promote("idc", asked(architecture), workspace, **how).promoted


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"source": DRAWN, "digests": "b", "capped": True}, "it was made from archive /data/idc.zip, here are drawn"),
        ({"source": DRAWN, "digests": "b"}, "it was made from archive /data/idc.zip, here are drawn slides"),
        ({"source": REAL, "capped": True}, "trained under the caps of `quick`: yes, wanted no"),
        ({"source": REAL | {"fingerprint": {"sha256": "other"}}, "digests": "b"}, "none of 384 patches sampled"),
        ({"source": REAL, "opposite": True}, "384 of 384 patches that both hold have other labels here"),
    ],
    ids=["an unchanged clone", "drawn", "capped", "other data", "opposite labels"],
)
def test_a_champion_is_replaced_by_other_data_only_where_it_is_named(
    workspace: Workspace,
    changed: dict[str, Any],
    said: str,
) -> None:
    made_of(workspace, REAL)
    assert crowned(workspace, "good")
    made_of(workspace, **changed)
    lenient = asked("better", promotion=LENIENT)
    verdict = promote("idc", lenient, workspace)
    assert said in str(verdict)
    assert (verdict.promoted, aliases(workspace)["champion"]) == (False, "1")
    held = tags(workspace, "2")
    assert said in held["reasons"]
    assert "failed" in (held["gate.data"], held.get("gate.quick"))
    with pytest.raises(PromotionError, match="--replace 2: version 1 of histopipe-idc is champion"):
        promote("idc", lenient, workspace, replaceable="2")
    assert promote("idc", lenient, workspace, replaceable="1").promoted
    assert aliases(workspace) == {"champion": "2"}


def test_drawn_slides_make_way_for_real_ones_and_short_trainings_for_long_ones(workspace: Workspace) -> None:
    made_of(workspace, DRAWN, capped=True)
    assert crowned(workspace, "better")
    made_of(workspace, REAL, digests="b", capped=True)
    assert not crowned(workspace, "worse"), "capped, and of other data"
    made_of(workspace, REAL, digests="b")
    assert crowned(workspace, "good"), "worse than the champion, which has never seen such data"
    assert tags(workspace, "3")["gate.data.measured"] == "other"
    card = client(workspace).get_model_version(NAME, "3").description
    data_line = (
        "data compared with the champion's: other (it was made from drawn slides, here are archive /data/idc.zip)"
    )
    assert data_line in card
    assert not crowned(workspace, "worse"), "of the same data, it is compared"
    assert crowned(workspace, "better")


def test_a_champion_of_an_earlier_release_is_known_by_its_tags(workspace: Workspace) -> None:
    made_of(workspace, REAL)
    crowned(workspace, "good")
    registry, held = client(workspace), tags(workspace, "1")
    folder = Path(registry.get_run(held["run_id"]).info.artifact_uri.removeprefix("file://")) / held["kept"]
    record = read_json(folder / "run.json")
    assert record.pop("data")["kind"] == "archive"
    write_json(folder / "run.json", record)
    registry.set_tag(held["run_id"], "source", "/data/idc.zip")
    made_of(workspace, DRAWN, digests="b", capped=True)
    assert not crowned(workspace, "better")
    made_of(workspace, REAL, digests="a")
    assert crowned(workspace, "better")


def test_predictions_are_those_of_the_checkouts_own_data(
    workspace: Workspace,
    caplog: pytest.LogCaptureFixture,
) -> None:
    made_of(workspace, REAL)
    crowned(workspace, "good")
    assert load_served_model("champion", "idc", workspace).data.verdict == "same"  # type: ignore[union-attr]
    made_of(workspace, REAL, opposite=True)
    line = r"champion \(version 1\) is made from other data.*have other labels here"
    line += ".*registered_model.*models:/histopipe-idc/1"
    for spelling in ("champion", f"models:/{NAME}@champion"):
        with pytest.raises(PredictionError, match=line):
            load_served_model(spelling, "idc", workspace)
    served = load_served_model(f"models:/{NAME}/1", "idc", workspace)
    assert served.data and served.data.verdict == "other"
    assert "have other labels here" in caplog.text
    shutil.rmtree(workspace.store("idc"))
    caplog.clear()
    served = load_served_model("champion", "idc", workspace)
    assert served.data and served.data.verdict in ("same", "unknown")


def test_a_name_of_its_own_keeps_two_checkouts_apart(workspace: Workspace) -> None:
    made_of(workspace, REAL)
    crowned(workspace, "good")
    own = yaml.safe_load(workspace.params.read_text()) | {"tracking": {"registered_model": "north-wing"}}
    workspace.params.write_text(yaml.safe_dump(own))
    made_of(workspace, REAL, opposite=True)
    assert promote("idc", asked("good", promotion=LENIENT), workspace).model == "north-wing"
    assert load_served_model("champion", "idc", workspace).name == "models:/north-wing@champion"
    assert aliases(workspace) == {"champion": "1"}


def test_a_server_keeps_its_model_where_the_alias_moves_to_other_data(workspace: Workspace) -> None:
    made_of(workspace, REAL)
    crowned(workspace, "good")
    request, outcomes = ModelRequest("champion", "idc", workspace), list[bool]()
    reloader = ModelReloader(request, load(request), 0, outcomes.append)
    made_of(workspace, REAL, digests="b")
    write_json(workspace.source("idc"), REAL | {"fingerprint": {"sha256": "other"}})
    assert crowned(workspace, "better", replaceable="1")
    shutil.rmtree(workspace.store("idc"))  # as where only a server runs: it can't tell by its own data
    workspace.source("idc").unlink()
    reloader.check()
    assert (reloader.model.version, outcomes) == ("1", [False])
    assert reloader.problem and "other data than the one in use, none of 384 patches" in reloader.problem


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Networks of these tests alone, which change what their runs keep."""
    return make_evaluated(tmp_path_factory.mktemp("evaluated"))


def own_files(workspace: Workspace, evaluated: Workspace) -> None:
    """Give a checkout the runs' files too, as if they had been logged here."""
    shutil.copytree(evaluated.root / "mlartifacts", workspace.root / "mlartifacts")
    with sqlite3.connect(workspace.root / "mlflow.db") as connection:
        _rename(connection, (evaluated.root / "mlartifacts").as_uri(), (workspace.root / "mlartifacts").as_uri())
    _artifact_repos_cache.clear()  # MLflow's, of where each run has its files


def lose_all(workspace: Workspace) -> None:
    shutil.rmtree(workspace.root / "mlartifacts")


def empty_network(workspace: Workspace) -> None:
    for file in (workspace.root / "mlartifacts").rglob("model.keras"):
        file.write_bytes(b"")


def half_of_it(workspace: Workspace) -> None:
    for file in (workspace.root / "mlartifacts").rglob("MLmodel"):
        file.unlink()


@pytest.mark.parametrize("lose", [lose_all, empty_network, half_of_it])
def test_a_champion_whose_files_are_lost_is_registered_again(
    workspace: Workspace,
    evaluated: Workspace,
    lose: Callable[[Workspace], None],
) -> None:
    own_files(workspace, evaluated)
    crowned(workspace, "good")
    lose(workspace)
    with pytest.raises(PredictionError, match=r"version 1 of histopipe-idc can't be loaded.*`histopipe promote idc`"):
        load_served_model("champion", "idc", workspace)
    (found,) = check_models(asked("good"), workspace)
    assert (found.state, "`histopipe promote idc`" in found.remedy) == ("error", True)
    verdict = promote("idc", asked("good"), workspace)
    assert "version 2 (good) is champion: it is version 1 registered again" in str(verdict)
    assert aliases(workspace) == {"champion": "2"}
    assert load_served_model("champion", "idc", workspace).point["threshold"]
    (found,) = check_models(asked("good"), workspace)
    assert found.state == "ok", found
    assert "champion already" in str(promote("idc", asked("good"), workspace))
    assert versions(workspace) == 2


def test_what_is_kept_for_later_promotions_is_logged_again(
    workspace: Workspace,
    evaluated: Workspace,
) -> None:
    own_files(workspace, evaluated)
    crowned(workspace, "good")
    for folder in (workspace.root / "mlartifacts").rglob("promotion"):
        shutil.rmtree(folder)
    (found,) = check_models(asked("good"), workspace)
    assert found.state == "warning"
    with pytest.raises(PromotionError, match="--replace 1"):
        promote("idc", asked("better"), workspace)
    verdict = promote("idc", asked("better", "good"), workspace)
    assert verdict.promoted
    assert "what later promotions need from version 1 was missing and has been logged again" in str(verdict)
    assert "gate.difference" in tags(workspace, verdict.version)


def test_a_champion_that_is_lost_for_good_is_replaced_where_it_is_named(
    workspace: Workspace,
    evaluated: Workspace,
) -> None:
    own_files(workspace, evaluated)
    crowned(workspace, "good")
    lose_all(workspace)
    with pytest.raises(PromotionError, match=r"restore the run's artifacts.*--replace 1"):
        promote("idc", asked("better"), workspace)
    assert promote("idc", asked("better"), workspace, replaceable="1").promoted
    assert aliases(workspace) == {"champion": "2"}
    with pytest.raises(PromotionError, match=r"version 1 .*files are gone from .*mlartifacts"):
        rollback("idc", workspace)
    found = {each.subject: each for each in check_models(asked("better"), workspace)}
    assert [found[what].state for what in ("champion of idc", "before champion of idc")] == ["ok", "warning"]


def test_a_deleted_run_is_told_of_before_its_files_go(workspace: Workspace) -> None:
    crowned(workspace, "good")
    run_id = tags(workspace, "1")["run_id"]
    client(workspace).delete_run(run_id)
    (found,) = check_models(asked("good"), workspace)
    assert (found.state, found.remedy) == ("warning", f"`mlflow runs restore --run-id {run_id}`")


def test_a_moved_checkout_finds_its_runs_files(
    workspace: Workspace,
    evaluated: Workspace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own_files(workspace, evaluated)
    crowned(workspace, "good")
    moved = Workspace(workspace.root.rename(tmp_path / "moved"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI")  # which MLflow itself sets
    _artifact_repos_cache.clear()
    assert load_served_model("champion", "idc", moved).name.endswith("@champion")
    assert "champion already" in str(promote("idc", asked("good"), moved))
    assert crowned(moved, "better")
    assert not workspace.root.exists()
    monkeypatch.chdir(moved.root)
    assert CliRunner().invoke(main, ["rollback", "idc"]).exit_code == 0
