"""Grading new patches: the numbers of the served model, in bounded memory, whatever the input holds."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from histopipe.core.errors import PredictionError
from histopipe.core.outputs.claims import MARKER, claim_folder
from histopipe.core.workspace import Workspace
from histopipe.inference import table as layout
from histopipe.inference.stage import predict
from histopipe.ingest.archives.reading import open_archive
from tests.builders.new_patches import in_folder, members, picture, run, tarred, zipped
from tests.builders.paths import ROOT


def graded(inputs: list[Path], model: Path, tmp_path: Path, **options: Any) -> tuple[dict[str, Any], pd.DataFrame]:
    out = tmp_path / "out"
    summary = predict(inputs, str(model), "idc", out, Workspace(tmp_path), **options)
    return summary, pd.read_parquet(out / "predictions.parquet")


def expected(network: keras.Model, content: dict[str, bytes]) -> np.ndarray:
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(data))) for data in content.values()])
    return np.asarray(network.predict_on_batch(pixels))[:, 0]


@pytest.mark.parametrize("pack", [zipped, in_folder, tarred])
def test_every_kind_of_input_gives_the_networks_own_probabilities(
    tmp_path: Path, model: Path, network: keras.Model, pack: Callable[[Path, dict[str, bytes]], Path]
) -> None:
    content = members()
    name = {zipped: "new.zip", in_folder: "new", tarred: "new.tar.gz"}[pack]
    summary, table = graded([pack(tmp_path / name, content)], model, tmp_path)
    assert sorted(table["file"]) == sorted(content)
    by_file = dict(zip(content, expected(network, content), strict=True))
    np.testing.assert_allclose(table["probability"], table["file"].map(by_file), rtol=0, atol=1e-4)
    assert (table["decision"] == (table["probability"] >= 0.5)).all()
    assert set(zip(table["case_id"], table["x"], strict=True)) == {
        (case, 50 * place + 1) for case in ("8863", "8864") for place in range(6)
    }
    assert (summary["patches"], summary["cases"], summary["maps"], summary["set_aside"]) == (12, 2, 2, {})
    cases = pd.read_csv(tmp_path / "out/cases.csv", dtype={"case_id": str}).set_index("case_id")
    assert cases["patches"].to_dict() == {"8863": 6, "8864": 6}
    means = table.groupby("case_id")["probability"].mean()
    assert cases["mean_probability"].to_dict() == pytest.approx(means.to_dict())
    assert Image.open(tmp_path / "out/maps/8863.png").size[0] > 500


def test_chunks_change_nothing(
    tmp_path: Path, model: Path, network: keras.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = zipped(tmp_path / "new.zip", members(11))
    _, whole = graded([archive], model, tmp_path)
    monkeypatch.setattr(layout, "CHUNK", 4)
    summary, parts = graded([archive], model, tmp_path)
    pd.testing.assert_frame_equal(parts, whole, rtol=0, atol=1e-4)
    assert summary["cases"] == 2


def test_single_files_without_places_have_no_map(tmp_path: Path, model: Path) -> None:
    files = [tmp_path / "some" / name for name in ("a.png", "b.jpg")]
    in_folder(tmp_path / "some", {"a.png": picture(1), "b.jpg": picture(2, kind="JPEG")})
    summary, table = graded(files, model, tmp_path)
    assert table["case_id"].tolist() == ["some", "some"] and table["x"].isna().all()
    assert summary["maps"] == 0 and not (tmp_path / "out/maps").exists()


def test_what_cannot_be_graded_is_set_aside_and_listed(tmp_path: Path, model: Path) -> None:
    good = members(4)
    odd = {
        "8863/0/grey.png": picture(20, mode="L"),  # graded like any other
        "8863/0/small.png": picture(21, (30, 50)),
        "8863/0/large.png": picture(22, (60, 60)),
        "8863/0/cut.png": picture(23)[:200],
        "8863/0/text.png": b"no picture",
        "../up.png": picture(24),
        "notes.txt": b"passed over",
    }
    summary, table = graded([zipped(tmp_path / "new.zip", good | odd)], model, tmp_path)
    reasons = {reason: entry["files"] for reason, entry in summary["set_aside"].items()}
    assert reasons == {
        "unsafe path": ["../up.png"],
        "larger than a patch": ["8863/0/large.png"],
        "not a readable image": ["8863/0/cut.png", "8863/0/text.png"],
    }
    assert set(table["file"]) == {*good, "8863/0/grey.png", "8863/0/small.png"}


@pytest.mark.parametrize(
    ("break_it", "complaint"),
    [
        (lambda model, new: new.unlink(), "new.zip is missing: correct the path"),
        (lambda model, new: zipped(new, {"a.txt": b"x"}), "nothing to predict in"),
        (lambda model, new: new.write_bytes(b"PK\x03\x04"), "is a truncated zip"),
        (lambda model, new: (model / "MLmodel").unlink(), "is no model that histopipe's `evaluate` logged"),
        (lambda model, new: (model / "artifacts/model.keras").write_bytes(b"?"), "can't be loaded"),
        (lambda model, new: shutil.rmtree(model), "is no folder of a model"),
        (
            lambda model, new: (model / "artifacts/operating_point.json").write_text('{"data_set": "malaria"}'),
            "is a model of malaria, not of idc",
        ),
    ],
)
def test_bad_input_is_one_line_and_leaves_the_earlier_result(
    tmp_path: Path,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    break_it: Callable[[Path, Path], object],
    complaint: str,
) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    new, out = zipped(tmp_path / "new.zip", members(4)), tmp_path / "out"
    with claim_folder(out, "predict", {}).written() as folder:
        (folder / "earlier.txt").write_text("kept")
    break_it(model, new)
    code, said = run(new, "--model", model, "--out", out, "--overwrite")
    assert code == 2 and said.startswith("histopipe: ") and complaint in said
    assert sorted(path.name for path in out.iterdir()) == [MARKER, "earlier.txt"]


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_nothing_of_a_users_is_deleted(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    in_folder(tmp_path / "new", members(4))
    mine = in_folder(tmp_path / "mine", {"thesis.txt": b"years of work", "deep/.hidden": b"more"})
    arguments = ["new", "--model", model]
    for options in ([], ["--overwrite"]):
        before = content(mine)
        code, said = run(*arguments, "--out", "mine", *options)
        assert code == 2 and "mine holds thesis.txt" in said and content(mine) == before
        before = content(tmp_path / "new")
        for out in ("new", "new/scores", "mine/../new", "."):
            code, said = run(*arguments, "--out", out, *options)
            assert code == 2 and "Traceback" not in said and content(tmp_path / "new") == before, said

    assert run(*arguments, "--out", "out")[0] == 0
    before = content(tmp_path / "out")
    code, said = run(*arguments, "--out", "out")
    assert code == 2 and "--overwrite" in said and content(tmp_path / "out") == before
    assert run(*arguments, "--out", "out", "--overwrite")[0] == 0
    assert content(tmp_path / "out").keys() == before.keys()
    (tmp_path / "out/maps/thesis.txt").write_text("mine")
    code, said = run(*arguments, "--out", "out", "--overwrite")
    assert code == 2 and "holds maps/thesis.txt" in said

    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    code, said = run("../new", "--model", model, "--out", ".")
    assert code == 0 and (tmp_path / "here/summary.json").exists(), said


def test_names_of_what_is_set_aside_are_cut_and_the_first_hundred_told() -> None:
    for by_name, expected in ((False, range(150, 50, -1)), (True, range(1, 101))):
        tally = layout.PredictionTally(by_name=by_name)
        for number in range(150, 0, -1):
            tally.reject("damaged", f"{number:03}" + "x" * 5000)
        assert tally.refused == {"damaged": 150}
        assert [name[:3] for name in tally.rejected["damaged"]] == [f"{number:03}" for number in expected]
        assert {len(name) for name in tally.rejected["damaged"]} == {300}


def test_no_champion_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(PredictionError, match=r"histopipe-idc@champion can't be loaded .*: promote a model first"):
        predict([tmp_path], "champion", "idc", tmp_path / "out", Workspace(tmp_path))


def test_real_slides_are_graded_and_drawn(tmp_path: Path, model: Path, real: Callable[[str], Path]) -> None:
    source = real("idc-slides.zip")
    summary, table = graded([source], model, tmp_path)
    assert (
        summary["patches"]
        == len(table)
        == len(open_archive(source).members) - sum(entry["count"] for entry in summary["set_aside"].values())
    )
    assert summary["maps"] == summary["cases"] == 3
