"""What is known of the champion: its own record and predictions, and what is predicted again."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from histopipe.core.errors import PromotionError
from histopipe.core.files import read_json
from histopipe.core.workspace import Workspace
from histopipe.data.store import INDEX_FILE
from histopipe.promotion.champion import champion_probabilities, read_champion
from histopipe.promotion.stage import promote, rollback
from tests.builders.promotions import asked
from tests.builders.registry import NAME, aliases, client, tags


def test_the_gate_works_when_the_champions_files_are_gone(workspace: Workspace) -> None:
    promote("idc", asked("good"), workspace)
    for folder in (workspace.model("idc", "good"), workspace.evaluation("idc", "good")):
        shutil.rmtree(folder)
    assert promote("idc", asked("better"), workspace).promoted
    assert tags(workspace, "2")["gate.cases.measured"] == "12"


def test_what_the_champion_never_predicted_is_predicted_anew(workspace: Workspace) -> None:
    promote("idc", asked("good"), workspace)
    champion = read_champion(client(workspace).get_model_version(NAME, "1"), client(workspace))
    index = pd.read_parquet(workspace.store("idc") / INDEX_FILE)
    patches = index[index["case_id"].astype(int) % 3 == 2].rename_axis("place").reset_index()
    patches = patches.assign(row=patches["place"])[["file", "digest", "row"]]
    logged = champion_probabilities(champion, patches, workspace.store("idc"))
    champion.logged.drop(champion.logged.index[:5], inplace=True)
    anew = champion_probabilities(champion, patches, workspace.store("idc"))
    assert not np.array_equal(anew, logged), "rounded as the served network rounds"
    np.testing.assert_allclose(anew, logged, atol=1e-5)


def test_other_pixels_under_the_same_names_are_predicted_anew(workspace: Workspace) -> None:
    promote("idc", asked("good"), workspace)
    champion = read_champion(client(workspace).get_model_version(NAME, "1"), client(workspace))
    patches = champion.logged.assign(digest="changed", row=np.arange(len(champion.logged)))
    found = champion_probabilities(champion, patches, workspace.store("idc"))
    assert np.abs(found - champion.logged["probability"].to_numpy()).max() > 0.1


def test_a_champion_of_before_versions_had_their_own_folders_is_still_known(workspace: Workspace) -> None:
    promote("idc", asked("good"), workspace)
    held = tags(workspace, "1")
    root = client(workspace).get_run(held["run_id"]).info.artifact_uri.removeprefix("file://")
    for path in Path(root, held["kept"]).iterdir():
        path.rename(Path(root, "promotion", path.name))
    with pytest.raises(PromotionError, match=f"doesn't hold {held['kept']}/run.json"):
        promote("idc", asked("better"), workspace)
    client(workspace).delete_model_version_tag(NAME, "1", "kept")
    assert promote("idc", asked("better"), workspace).promoted


def test_the_champions_run_gets_the_report_of_a_later_comparison_too(
    workspace: Workspace, tmp_path: Path, killer: Callable[[int | None], list[str]]
) -> None:
    page = workspace.report("idc") / "index.html"
    page.parent.mkdir(parents=True)
    for text in ("first", "second"):
        page.write_text(text)
        promote("idc", asked("good"), workspace)
        run_id = tags(workspace, "1")["run_id"]
        assert (
            Path(client(workspace).download_artifacts(run_id, "report/index.html", str(tmp_path))).read_text() == text
        )
    written = killer(None)
    promote("idc", asked("good"), workspace)
    assert written == [], "what hasn't changed isn't logged again"
    client(workspace).delete_run(run_id)
    assert not promote("idc", asked("good"), workspace).judged


def test_a_champion_that_nothing_is_known_of_is_not_taken_for_granted(workspace: Workspace) -> None:
    """Somebody registered a model by hand and gave it the alias."""
    promote("idc", asked("good"), workspace)
    source = client(workspace).get_model_version(NAME, "1").source
    run = client(workspace).create_run(client(workspace).get_experiment_by_name(NAME).experiment_id)
    client(workspace).create_model_version(NAME, source, run.info.run_id)
    client(workspace).set_registered_model_alias(NAME, "champion", "2")
    with pytest.raises(PromotionError, match="so the cases that it was trained on are unknown"):
        promote("idc", asked("better"), workspace)
    assert aliases(workspace) == {"champion": "2"}


def test_a_champion_without_a_run_is_not_taken_for_granted(workspace: Workspace) -> None:
    promote("idc", asked("good"), workspace)
    source = str(client(workspace).get_model_version(NAME, "1").source)
    logged = client(workspace).get_logged_model(source.removeprefix("models:/"))
    client(workspace).create_model_version(NAME, logged.artifact_location)
    client(workspace).set_registered_model_alias(NAME, "champion", "2")
    with pytest.raises(PromotionError, match="so the cases that it was trained on are unknown"):
        promote("idc", asked("better"), workspace)


@contextmanager
def damaged(workspace: Workspace, name: str) -> Iterator[None]:
    """Inside, the network that was logged for an architecture has lost its end."""
    run = client(workspace).get_run(read_json(workspace.evaluation("idc", name) / "metrics.json")["run_id"])
    logged = client(workspace).get_logged_model(run.data.tags["served_model"])
    (file,) = Path(logged.artifact_location.removeprefix("file://")).rglob("model.keras")
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    try:
        yield
    finally:
        file.write_bytes(whole)


def test_a_model_whose_network_is_damaged_does_not_become_champion(workspace: Workspace) -> None:
    promote("idc", asked("good"), workspace)
    said = r"version 2 of histopipe-idc can't be served.*not those that were logged"
    with damaged(workspace, "better"), pytest.raises(PromotionError, match=said):
        promote("idc", asked("better"), workspace)
    assert aliases(workspace) == {"champion": "1"}
    assert promote("idc", asked("better"), workspace).promoted
    with damaged(workspace, "good"), pytest.raises(PromotionError, match="version 1 of histopipe-idc can't be served"):
        rollback("idc", workspace)
    assert (aliases(workspace), tags(workspace, "2")["verdict"]) == ({"champion": "2"}, "promoted")
