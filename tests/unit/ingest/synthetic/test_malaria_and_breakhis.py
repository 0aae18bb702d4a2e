"""Drawn malaria and BreakHis: the real layouts and names, the same bytes every time, labels worth learning."""

from __future__ import annotations

import dataclasses
import io
import zipfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image

from histopipe.cli import main
from histopipe.core.files import read_json
from histopipe.core.params import SyntheticParams, parse_params
from histopipe.core.workspace import Workspace
from histopipe.data.splitting.membership import read_membership
from histopipe.data.store import PatchStore, read_index
from histopipe.ingest.datasets import PatchName, get_dataset
from histopipe.ingest.sources.stage import locate
from histopipe.ingest.synthetic.archive import write_archive
from histopipe.ingest.synthetic.breakhis.plan import plan_cases as plan_patients
from histopipe.ingest.synthetic.malaria.plan import plan_cases as plan_donors
from histopipe.ingest.synthetic.plan import SyntheticSlides

SETS = {
    "malaria": SyntheticSlides(cases=40, patches=800, dataset="malaria"),
    "breakhis": SyntheticSlides(cases=40, patches=120, dataset="breakhis"),
}
SMALL = {
    "malaria": SyntheticSlides(cases=6, patches=40, dataset="malaria"),
    "breakhis": SyntheticSlides(cases=5, patches=12, dataset="breakhis"),
}


@dataclasses.dataclass
class Drawn:
    counts: dict[str, int]
    members: dict[str, bytes]
    names: dict[str, PatchName]

    def pixels(self, name: str) -> np.ndarray:
        image = Image.open(io.BytesIO(self.members[name]))
        assert (image.format, image.mode) == ("PNG", "RGB")
        return np.asarray(image)


def draw(folder: Path, dataset: str) -> Drawn:
    path = folder / f"{dataset}.zip"
    counts = write_archive(path, SETS[dataset], progress=False)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    once = [name for name in members if not name.startswith("cell_images/cell_images/")]
    names = {name: get_dataset(dataset).read_name(name) for name in once}
    return Drawn(counts, members, {name: read for name, read in names.items() if read})


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    return draw(tmp_path_factory.mktemp("drawn"), "malaria")


@pytest.fixture(scope="module")
def fields(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    return draw(tmp_path_factory.mktemp("drawn"), "breakhis")


@pytest.fixture(params=["malaria", "breakhis"])
def drawn(request: pytest.FixtureRequest, cells: Drawn, fields: Drawn) -> tuple[str, Drawn]:
    return request.param, {"malaria": cells, "breakhis": fields}[request.param]


@pytest.mark.slow
def test_counts_are_those_asked_for_and_those_in_the_archive(drawn: tuple[str, Drawn]) -> None:
    dataset, archive = drawn
    asked = SETS[dataset]
    assert len(archive.names) == archive.counts["patches"] == asked.patches
    assert len({name.case_id for name in archive.names.values()}) == archive.counts["cases"] == asked.cases
    assert sum(name.label for name in archive.names.values()) == archive.counts["positive"]
    assert len(archive.members) - len(archive.names) == archive.counts["nested"]


@pytest.mark.slow
@pytest.mark.parametrize("dataset", SETS)
def test_the_same_bytes_for_any_number_of_workers_and_others_for_another_seed(tmp_path: Path, dataset: str) -> None:
    one, again, two, other = (tmp_path / f"{name}.zip" for name in ("one", "again", "two", "other"))
    write_archive(one, SMALL[dataset], workers=1, progress=False)
    write_archive(again, SMALL[dataset], workers=1, progress=False)
    write_archive(two, SMALL[dataset], workers=2, progress=False)
    write_archive(other, dataclasses.replace(SMALL[dataset], seed=43), workers=1, progress=False)
    assert one.read_bytes() == again.read_bytes() == two.read_bytes()
    assert one.read_bytes() != other.read_bytes()


def test_no_drawn_case_passes_for_a_real_one(cells: Drawn, fields: Drawn) -> None:
    assert all(int(name.case_id[1:].split("P")[0].rstrip("N")) > 241 for name in cells.names.values())
    assert all(int(name.case_id[3:8]) > 29_960 for name in fields.names.values())


def test_a_quarter_of_the_donors_is_healthy(cells: Drawn) -> None:
    positives: Counter[str] = Counter()
    for name in cells.names.values():
        positives[name.case_id] += name.label
    assert sum(count == 0 for count in positives.values()) == 10
    assert 0.4 < cells.counts["positive"] / cells.counts["patches"] < 0.6


@pytest.mark.parametrize("cases", [4, 8, 60, 200])
def test_there_are_donors_of_both_kinds_however_few(cases: int) -> None:
    donors = plan_donors(SyntheticSlides(cases=cases, patches=10 * cases, dataset="malaria"))
    assert sum(donor.positives == 0 for donor in donors) == cases // 4
    assert all(donor.positives <= donor.cells for donor in donors)


def test_odd_forms_of_names_occur_and_one_donor_has_two(cells: Drawn) -> None:
    forms = defaultdict(set)
    for path, name in cells.names.items():
        forms[name.case_id].add(path.rsplit("/", 1)[1].split("_IMG_")[0].removeprefix(name.case_id))
    assert len(set.union(*forms.values())) >= 5
    assert [found for found in forms.values() if len(found) > 1] == [{"thin_Original_Motic", "thinOriginalOlympusCX21"}]


def test_kaggles_second_copy_of_cells_is_drawn_too(cells: Drawn) -> None:
    nested = [name for name in cells.members if name.startswith("cell_images/cell_images/")]
    assert len(nested) == cells.counts["nested"] > 0
    for name in nested:
        assert cells.members[name] == cells.members[name.removeprefix("cell_images/")]


def test_cells_of_many_sizes_lie_on_black(cells: Drawn) -> None:
    sizes = set()
    for name in list(cells.names)[::7]:
        pixels = cells.pixels(name)
        sizes.add(pixels.shape)
        black = (pixels == 0).all(axis=2)
        assert 0.05 < black.mean() < 0.6
        assert not black[pixels.shape[0] // 2, pixels.shape[1] // 2]
        assert not black.all(axis=1).any()  # cut out tightly
    assert len(sizes) > 20
    assert min(min(size[:2]) for size in sizes) > 50


def test_fields_have_the_published_size_and_every_magnification(fields: Drawn) -> None:
    assert {fields.pixels(name).shape for name in list(fields.names)[::5]} == {(460, 700, 3)}
    found = Counter(name.attributes[0] for name in fields.names.values())
    assert set(found) == {40, 100, 200, 400}
    assert max(found.values()) < 1.5 * min(found.values())


def test_patients_are_benign_or_malignant_in_breakhis_proportions() -> None:
    patients = plan_patients(SyntheticSlides(cases=82, patches=7909, dataset="breakhis"))
    assert sum(patient.label for patient in patients) == 58
    found = Counter(patient.subtypes[0] for patient in patients)
    assert found == {"A": 4, "F": 10, "PT": 3, "TA": 7, "DC": 38, "LC": 5, "MC": 9, "PC": 6}


def test_one_patient_stands_under_two_subtypes(fields: Drawn) -> None:
    subtypes = defaultdict(set)
    for name in fields.names.values():
        subtypes[name.case_id].add(name.attributes[1])
    assert [found for found in subtypes.values() if len(found) > 1] == [{"DC", "LC"}]


def colours(archive: Drawn, size: tuple[int, int]) -> pd.DataFrame:
    rows = []
    for path, name in archive.names.items():
        pixels = np.asarray(Image.fromarray(archive.pixels(path)).resize(size, Image.Resampling.BOX)).astype(float)
        shown = pixels[pixels.sum(axis=2) > 30]  # without the black around cells
        rows.append(
            [name.case_id, name.label, *shown.mean(axis=0), *shown.std(axis=0), *np.percentile(shown, 2, axis=0)]
        )
    return pd.DataFrame(rows)


@pytest.mark.slow
def test_labels_of_unseen_cases_can_be_learnt_from_colour_but_not_perfectly(drawn: tuple[str, Drawn]) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    table = colours(drawn[1], (64, 64))
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    scores = cross_val_predict(
        model, table.iloc[:, 2:], table[1], groups=table[0], cv=GroupKFold(5), method="predict_proba"
    )
    assert 0.7 < roc_auc_score(table[1], scores[:, 1]) < 0.97


@pytest.mark.slow
def test_colour_differs_more_between_donors_than_within_one(cells: Drawn) -> None:
    table = colours(cells, (32, 32)).rename(columns={0: "case"})
    mean = table.groupby("case")[2].agg(["mean", "std"])
    assert mean["mean"].std() > 1.5 * mean["std"].mean()


@pytest.mark.parametrize("values", [{"dataset": "mine"}, {"dataset": "breakhis", "cases": 70_001, "patches": 80_000}])
def test_what_cannot_be_drawn_is_refused_in_one_line(values: dict[str, Any]) -> None:
    from histopipe.core.errors import HistopipeError

    with pytest.raises(HistopipeError, match="give") as refused:
        SyntheticSlides(**values)
    assert "\n" not in str(refused.value)


def test_of_breakhis_fewer_are_drawn_unless_fewer_still_are_asked_for() -> None:
    assert [SyntheticParams().patches_of(name) for name in ("idc", "malaria", "breakhis")] == [6000, 6000, 360]
    assert SyntheticParams(patches=100).patches_of("breakhis") == 100


def test_settings_of_breakhis_do_not_change_another_record(workspace: Workspace, content: dict[str, Any]) -> None:
    before = locate("idc", parse_params(content), workspace)
    content["synthetic"]["breakhis_patches"] = 100
    assert locate("idc", parse_params(content), workspace) == before
    assert locate("breakhis", parse_params(content), workspace).fingerprint["patches"] == 100


def run(*arguments: str) -> str:
    done = CliRunner().invoke(main, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["malaria", "breakhis"])
def test_from_nothing_to_a_split_through_the_commands(
    workspace: Workspace, content: dict[str, Any], monkeypatch: pytest.MonkeyPatch, dataset: str
) -> None:
    content |= {"datasets": ["idc", "malaria", "breakhis"]}
    content["synthetic"] |= {"cases": 24, "patches": 240, "breakhis_patches": 48}
    workspace.params.write_text(yaml.safe_dump(content))
    monkeypatch.chdir(workspace.root)
    for stage in ("locate", "fetch", "ingest", "split"):
        run(stage, dataset)
    patches = 240 if dataset == "malaria" else 48
    report = read_json(workspace.store(dataset) / "report.json")
    assert (report["patches"], report["cases"], report["bad"]) == (patches, 24, 0)
    store = PatchStore.open(workspace.store(dataset))
    assert store.patch_size == get_dataset(dataset).patch_size
    table = read_index(workspace.store(dataset)).merge(read_membership(workspace.split(dataset)), on="case_id")
    assert table.groupby("split")["label"].nunique().to_dict() == {"train": 2, "validation": 2, "test": 2}


@pytest.mark.slow
@pytest.mark.parametrize(("dataset", "patches"), [("malaria", 60), ("breakhis", 8)])
def test_the_synth_command_draws_each_data_set(tmp_path: Path, dataset: str, patches: int) -> None:
    out = tmp_path / "a.zip"
    said = run("synth", dataset, "--cases", "4", "--patches", str(patches), "--seed", "7", "--out", str(out))
    assert f"4 cases, {patches} patches" in said
    assert zipfile.ZipFile(out).testzip() is None
