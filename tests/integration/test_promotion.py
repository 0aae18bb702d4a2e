"""Champion and challenger as trainings make them, through `dvc repro`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.integration.conftest import Checkout
from tests.integration.test_repro import LENIENT
from tests.registry import NAME, aliases, client, tags

MIDDLING = {"max_epochs": 3, "max_patches": 1000, "max_image_size": 32}


@pytest.mark.long
def test_one_epoch_is_refused_a_longer_training_promoted_and_taken_back(checkout: Callable[..., Checkout]) -> None:
    project = checkout(quick=MIDDLING, synthetic={"cases": 60, "patches": 4000})
    assert "version 1 (cancernet) is champion" in project.dvc("repro").stdout
    project.change(quick={"max_epochs": 1, "max_patches": 64})
    refused = project.dvc("repro").stdout
    assert "version 2 (cancernet) is refused and becomes challenger" in refused
    assert aliases(project) == {"champion": "1", "challenger": "2"}
    assert "ROC AUC" in tags(project, "2")["reasons"]
    project.change(quick={"max_epochs": 8, "max_patches": 2500})
    assert "version 3 (cancernet) is champion" in project.dvc("repro").stdout
    assert aliases(project)["champion"] == "3"
    assert "version 1" in project.histopipe("rollback", "idc").stdout
    assert aliases(project)["champion"] == "1"


@pytest.mark.long
def test_experiments_leave_the_registry_alone_until_one_is_kept_and_promoted(checkout: Callable[..., Checkout]) -> None:
    """Real ones, in place and in DVC's temporary folder; by DVC's account `promote` ran and ended well in both."""
    project = checkout(promotion=LENIENT)
    project.run("git", "commit", "--quiet", "--all", "--message", "small")
    for place, epochs in (((), 1), (("--temp",), 3)):
        done = project.dvc("exp", "run", *place, "-S", f"quick.max_epochs={epochs}").stdout
        assert "idc: experiments don't promote: keep this one with `dvc exp apply`" in done
        assert client(project).search_model_versions(f"name = '{NAME}'") == []
    assert "Data and pipelines are up to date" in project.dvc("repro").stdout
    assert "version 1 (cancernet) is champion" in project.histopipe("promote", "idc").stdout
    assert aliases(project) == {"champion": "1"}
