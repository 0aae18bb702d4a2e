"""Whether a model's data is the data that lies here: by patches that both hold, by archive, by kind of source."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from histopipe.core.errors import ParamsError, PredictionError
from histopipe.core.params import parse_params
from histopipe.core.workspace import Workspace
from histopipe.data.store import INDEX_FILE
from histopipe.inference.origin import require_own_data
from histopipe.tracking.provenance import Provenance, data_here, data_of_training, relate
from histopipe.tracking.stores import registered_model_name

PATCHES = 20_000


def table(seed: int, count: int = PATCHES) -> pd.DataFrame:
    """An index of patches, 200 of each case, a third of them positive."""
    random = np.random.default_rng(seed)
    words = random.integers(0, 2**63, (count, 2))
    return pd.DataFrame(
        {
            "digest": [f"{one:016x}{other:016x}" for one, other in words],
            "label": (random.random(count) < 0.33).astype(int),
            "case_id": [f"{seed}-{number // 200}" for number in range(count)],
        }
    )


def at(folder: Path, index: pd.DataFrame, source: dict[str, object] | None = None) -> Workspace:
    """A checkout with a store, and a source that was located."""
    workspace = Workspace(folder)
    workspace.store("mine").mkdir(parents=True)
    index.to_parquet(workspace.store("mine") / INDEX_FILE)
    located = {"kind": "archive", "source": "/data/mine.zip", "fingerprint": {"sha256": folder.name}} | (source or {})
    workspace.source("mine").parent.mkdir(parents=True)
    workspace.source("mine").write_text(json.dumps(located))
    return workspace


def model_of(workspace: Workspace, index: pd.DataFrame) -> Provenance:
    """What a training there records, read again from its file."""
    made_from = data_of_training("mine", index["case_id"].unique(), index, workspace)
    return Provenance.from_json(json.loads(json.dumps(made_from.as_json())))


def corrected(index: pd.DataFrame) -> pd.DataFrame:
    return index.assign(label=index["label"].where(np.arange(len(index)) % 20 > 0, 1 - index["label"]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        (lambda index: index, "same"),
        (lambda index: pd.concat([index, *(table(seed) for seed in range(2, 6))]), "same"),
        (lambda index: index[index["case_id"].isin(["1-0", "1-7"])], "same"),
        (corrected, "same"),
        (lambda index: index.assign(label=1 - index["label"]), "other"),
        (lambda index: index.assign(label=np.random.default_rng(9).permutation(index["label"])), "other"),
        (lambda index: table(7), "other"),
    ],
    ids=[
        "unchanged",
        "grown fivefold",
        "a fiftieth left",
        "some labels corrected",
        "opposite",
        "another task",
        "other",
    ],
)
def test_data_is_told_by_the_patches_that_both_hold(
    tmp_path: Path, changed: Callable[[pd.DataFrame], pd.DataFrame], verdict: str
) -> None:
    before = table(1)
    model = model_of(at(tmp_path / "before", before), before)
    after = at(tmp_path / "after", changed(before))
    assert relate(model, data_here("mine", after)).verdict == verdict


def test_two_models_are_told_apart_too(tmp_path: Path) -> None:
    first, grown = table(1), pd.concat([table(1), table(2)])
    old, new = model_of(at(tmp_path / "a", first), first), model_of(at(tmp_path / "b", grown), grown)
    assert relate(new, old).verdict == relate(old, new).verdict == "same"
    other = table(3)
    assert relate(model_of(at(tmp_path / "c", other), other), old).verdict == "other"


def test_the_same_archive_and_drawn_slides_need_no_common_patch(tmp_path: Path) -> None:
    one, other = table(1), table(2)
    model = model_of(at(tmp_path / "a", one, {"fingerprint": {"sha256": "f00"}}), one)
    at_100 = at(tmp_path / "b", other, {"fingerprint": {"sha256": "f00"}})
    assert relate(model, data_here("mine", at_100)).reason == "it was made from the same archive"
    drawn = {"kind": "synthetic", "source": "synthetic", "fingerprint": {"seed": 1}}
    earlier = model_of(at(tmp_path / "c", one, drawn), one)
    here = data_here("mine", at(tmp_path / "d", other, drawn))
    assert relate(earlier, here).verdict == "same"
    assert relate(model, here).verdict == "other"


def test_classes_and_what_nobody_recorded(tmp_path: Path) -> None:
    index = table(1)
    here = replace(data_here("mine", at(tmp_path / "a", index)), classes=("benign", "malignant"))
    assert relate(Provenance("mine"), here).verdict == "unknown"
    assert relate(Provenance("mine", classes=("", "malignant")), here).verdict == "unknown"
    assert (
        "its classes are malignant and benign"
        in relate(Provenance("mine", classes=("malignant", "benign")), here).reason
    )
    assert relate(Provenance("mine", kind="synthetic"), here).verdict == "other"


def test_without_a_store_the_usual_source_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(
        "datasets: [mine]\narchitectures: [a]\nmine: {source: SOURCE, manifest: m.csv}\n"
        "recipes: {a: {architecture: cancernet, optimizer: {name: adam, learning_rate: 0.1}}}\n"
    )
    real = model_of(at(tmp_path / "elsewhere", table(1)), table(1))
    for source, kind in (("synthetic", None), ("kaggle", "kaggle"), ("/x.zip", "archive")):
        text = (tmp_path / "params.yaml").read_text()
        (tmp_path / "params.yaml").write_text(text.replace("SOURCE", source))
        here = data_here("mine", Workspace(tmp_path))
        (tmp_path / "params.yaml").write_text(text)
        assert here.kind == kind
        assert relate(real, here).verdict == "unknown"
        drawn = replace(real, kind="synthetic", labels=real.labels[:0], archives=frozenset())
        assert relate(drawn, here).verdict == ("unknown" if kind is None else "other")


def test_the_registered_models_name_is_the_groups_to_choose(tmp_path: Path, content: dict[str, object]) -> None:
    workspace = Workspace(tmp_path)
    assert registered_model_name("idc", workspace) == "histopipe-idc"
    params = {"datasets": ["idc"], "tracking": {"registered_model": "north wing {dataset}"}}
    assert parse_params(content | params).tracking.model_of("idc") == "north wing idc"
    fixed = {"tracking": {"registered_model": "ours"}}
    assert parse_params(content | fixed).tracking.model_of("idc") == "ours"
    for wrong in ({"registered_model": "a/b"}, {"registered_model": "a-{name}"}, {"registered_model": ""}):
        with pytest.raises(ParamsError, match="registered_model"):
            parse_params(content | {"tracking": wrong})
    with pytest.raises(ParamsError, match="would share one registered model"):
        parse_params(content | fixed | {"datasets": ["idc", "malaria"]})


OTHERS = pd.Series([0, 1] * 4, index=list("abcdefgh"))


@pytest.mark.parametrize(
    ("made_from", "helps", "useless"),
    [
        (
            Provenance("mine", "synthetic"),
            "`quick: null`.*`histopipe promote mine --replace VERSION`.*--model",
            "never",
        ),
        (
            Provenance("mine", "folder", labels=pd.Series([1] * 8, index=list("abcdefgh"))),
            "--replace.*--model",
            "quick",
        ),
        (Provenance("mine", "synthetic", classes=("a", "b")), "--replace", "--model"),
    ],
)
def test_a_refusal_of_other_data_names_what_helps(
    tmp_path: Path, made_from: Provenance, helps: str, useless: str
) -> None:
    here = at(tmp_path, table(1), {"kind": "archive", "source": "/data/mine.zip", "fingerprint": {}})
    (here.store("mine") / "report.json").write_text(json.dumps({"classes": ["normal", "tumour"]}))
    with pytest.raises(PredictionError, match=helps) as refused:
        require_own_data(made_from, "the champion", None, True, here)
    assert useless not in str(refused.value)
