"""Slides put together from their patches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest

from histopipe.core.params import EvaluateParams
from histopipe.data.store import INDEX_FILE, PatchStore, shard_name
from histopipe.evaluation.mlflow_run import LOGGED_SLIDES, log_files
from histopipe.evaluation.slide_figures import OUTCOMES, SLIDES, draw_slide, draw_slides, drawn_slides, file_name
from histopipe.evaluation.slide_maps import CANVAS, Canvas, lay_out_patches, paint, paint_tissue
from tests.builders.slides import cut

POINT = {"negative_class": "benign", "positive_class": "IDC", "resized": False}
ALL = EvaluateParams()


def pattern(height: int, width: int) -> np.ndarray:
    """Every pixel has a colour of its own place."""
    y, x = np.mgrid[:height, :width]
    return np.stack([y % 256, x % 256, (y // 256) * 16 + x // 256], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("offset", [(0, 0), (1, 51), (1337, 7)])
@pytest.mark.parametrize(("height", "width"), [(200, 300), (173, 211)])
def test_at_full_size_the_slide_comes_back_pixel_by_pixel(height: int, width: int, offset: tuple[int, int]) -> None:
    slide = pattern(height, width)
    patches, places = cut(slide, 50, offset)
    canvas = lay_out_patches(places)
    assert canvas.complete and canvas.scale == 1.0
    np.testing.assert_array_equal(paint_tissue(canvas, patches, places), slide)


@pytest.mark.parametrize("longest", [60, 97, 130])
def test_reduced_maps_have_neither_seams_nor_shifts(longest: int) -> None:
    slide = np.zeros((400, 600, 3), np.uint8)
    slide[100:250, 150:450] = 200
    patches, places = cut(slide, 50, (3, 9))
    canvas = lay_out_patches(places, longest)
    tissue = paint_tissue(canvas, patches, places)
    assert max(canvas.shape) == longest
    assert tissue.max() == 200, "white would show where no patch was drawn"
    truth = paint(canvas, patches.mean(axis=(1, 2, 3)) > 100)
    np.testing.assert_array_equal(truth == 1, tissue[..., 0] > 100)
    y, x = np.argwhere(truth == 1)[[0, -1]].T
    assert (y * canvas.scale).tolist() == pytest.approx([100, 250], abs=1.5 * canvas.scale)
    assert (x * canvas.scale).tolist() == pytest.approx([150, 450], abs=1.5 * canvas.scale)


def test_every_patch_has_its_own_value_and_the_rest_has_none() -> None:
    places = pd.DataFrame({"x": [0, 50, 0], "y": [0, 0, 50], "width": [50, 20, 50], "height": [50, 50, 10]})
    field = paint(lay_out_patches(places), [0.1, 0.5, 0.9])
    assert field.shape == (60, 70)
    assert np.unique(field[:50, :50]) == 0.1 and np.unique(field[:50, 50:]) == 0.5 and np.unique(field[50:, :50]) == 0.9
    assert np.isnan(field[50:, 50:]).all()


def test_a_sample_of_a_slide_is_told_from_a_whole_one() -> None:
    places = pd.DataFrame({"x": [0, 5000, 2500], "y": [0, 3000, 200], "width": 50, "height": 50})
    canvas = lay_out_patches(places)
    assert not canvas.complete
    assert canvas.shape == (725, 1200)
    assert not lay_out_patches(places[:1]).complete, "one patch is no slide"


def test_a_whole_slide_has_every_pixel_where_that_is_asked_for_and_a_sample_never() -> None:
    patches, places = cut(pattern(50, 2600), 50)
    assert lay_out_patches(places).shape[1] == CANVAS
    assert lay_out_patches(places, None).shape == (50, 2600)
    np.testing.assert_array_equal(paint_tissue(lay_out_patches(places, None), patches, places), pattern(50, 2600))
    apart = pd.DataFrame({"x": [0, 50_000], "y": [0, 40_000], "width": 50, "height": 50})
    assert lay_out_patches(apart, None).shape[1] == CANVAS
    assert lay_out_patches(apart, 600).shape[1] == 600


def test_a_sliver_that_vanishes_when_reduced_does_no_harm() -> None:
    places = pd.DataFrame({"x": [0, 5000], "y": [0, 0], "width": [5000, 1], "height": [5000, 5000]})
    canvas = lay_out_patches(places, 100)
    assert paint(canvas, [1.0, 2.0]).shape == canvas.shape
    patches = np.zeros((2, 50, 50, 3), np.uint8)
    assert paint_tissue(canvas, patches, places.clip(upper=50)).shape == (*canvas.shape, 3)


def store_of(
    folder: Path, slides: dict[str, pd.DataFrame], patches: dict[str, np.ndarray]
) -> tuple[PatchStore, pd.DataFrame]:
    """A store of several slides, and predictions of all their patches."""
    index = pd.concat([places.assign(case_id=case) for case, places in slides.items()], ignore_index=True)
    index["file"], index["label"] = [f"{number}.png" for number in range(len(index))], np.arange(len(index)) % 2
    index["shard"], index["row"] = 0, np.arange(len(index))
    np.save(folder / shard_name(0), np.concatenate(list(patches.values())))
    index.to_parquet(folder / INDEX_FILE)
    table = index[["file", "case_id", "label", "row"]].assign(probability=0.4, decision=0)
    return PatchStore.open(folder), table


def samples_and_a_whole(folder: Path) -> tuple[PatchStore, pd.DataFrame]:
    """Eight samples of 30 to 37 patches, and a whole slide of 24, which comes last by name."""
    patches, places = cut(pattern(200, 300), 50)
    slides, pixels = {}, {}
    for number in range(8):
        count = np.arange(30 + number)
        slides[f"s{number}"] = pd.DataFrame({"x": count * 997, "y": count[::-1] * 1013, "width": 50, "height": 50})
        pixels[f"s{number}"] = np.repeat(patches[:1], len(count), axis=0)
    return store_of(folder, slides | {"whole": places}, pixels | {"whole": patches})


@pytest.mark.slow
def test_every_slide_is_drawn_and_listed_whole_ones_before_samples(tmp_path: Path) -> None:
    store, table = samples_and_a_whole(tmp_path)
    drawn = draw_slides(table, store, POINT, ALL, tmp_path)
    assert drawn["case_id"].tolist() == ["whole", *(f"s{number}" for number in reversed(range(8)))]
    assert drawn["patches"].tolist() == [24, *range(37, 29, -1)]
    assert drawn["complete"].tolist() == [True] + [False] * 8
    listed = drawn_slides(tmp_path)
    assert [case for case, _ in listed] == drawn["case_id"].tolist()
    assert {path for _, path in listed} == set((tmp_path / "figures" / SLIDES).iterdir())
    with PIL.Image.open(listed[0][1]) as picture:
        assert picture.width > 1000
        assert len(picture.convert("RGB").getcolors(2**24)) > 1000, "the tissue's own colours"


def test_a_number_bounds_the_slides_and_keeps_those_of_which_most_is_known(tmp_path: Path) -> None:
    store, table = samples_and_a_whole(tmp_path)
    drawn = draw_slides(table, store, POINT, EvaluateParams(slides=3), tmp_path)
    assert drawn["case_id"].tolist() == ["whole", "s7", "s6"]
    assert len(list((tmp_path / "figures" / SLIDES).iterdir())) == 3


def test_the_list_of_slides_keeps_names_as_they_stand(tmp_path: Path) -> None:
    patches, places = cut(pattern(100, 100), 50)
    cases = ["007", "NA", "字" * 60, 'a,"b"']
    store, table = store_of(tmp_path, dict.fromkeys(cases, places), dict.fromkeys(cases, patches))
    draw_slides(table, store, POINT, ALL, tmp_path)
    assert sorted(case for case, _ in drawn_slides(tmp_path)) == sorted(cases)
    assert all(path.is_file() for _, path in drawn_slides(tmp_path))


def graded(places: pd.DataFrame) -> pd.DataFrame:
    """Every place with a probability of its own; one right and one wrong decision of either kind, over and over."""
    number = np.arange(len(places))
    return places.assign(label=number % 2, decision=number // 2 % 2, probability=(number + 1) / (len(places) + 2))


def test_each_panel_shows_its_own_values_at_the_same_places() -> None:
    slide = pattern(173, 211)
    patches, places = cut(slide, 50, (1, 51))
    part, canvas = graded(places), lay_out_patches(places)
    figure = draw_slide("1", part, paint_tissue(canvas, patches, places), canvas, ("benign", "IDC"))
    tissue, truth, probability, error = figure.axes[:4]
    assert [axes.get_title(loc="left") for axes in figure.axes[:4]] == [
        "tissue", "truth", "probability of IDC", "error at the threshold",
    ]  # fmt: skip
    np.testing.assert_array_equal(tissue.images[0].get_array(), slide)
    found = {(0, 0): "negative, called so", (1, 1): "positive, called so", (0, 1): "false alarm", (1, 0): "missed"}
    pairs = zip(part["label"], part["decision"], strict=True)
    outcome = [OUTCOMES.index(found[pair]) for pair in pairs]
    for axes, values in ((truth, part["label"]), (probability, part["probability"]), (error, outcome)):
        np.testing.assert_array_equal(axes.images[0].get_array(), paint(canvas, values))
        assert axes.get_xlim() == tissue.get_xlim() == (0, 211) and axes.get_ylim() == tissue.get_ylim() == (173, 0)


def test_the_dots_of_a_sample_lie_in_the_middle_of_their_patches() -> None:
    places = pd.DataFrame({"x": [0, 900, 400], "y": [0, 500, 100], "width": [50, 50, 20], "height": [50, 50, 30]})
    part, canvas = graded(places), lay_out_patches(places)
    patches = np.zeros((3, 50, 50, 3), np.uint8)
    figure = draw_slide("1", part, paint_tissue(canvas, patches, places), canvas, ("benign", "IDC"))
    assert not canvas.complete
    for axes, values in ((figure.axes[1], part["label"]), (figure.axes[2], part["probability"])):
        dots = axes.collections[0]
        np.testing.assert_array_equal(dots.get_offsets(), [[25, 25], [925, 525], [410, 115]])
        np.testing.assert_array_equal(dots.get_array(), values)


WHOLE = cut(pattern(700, 1100), 50)[1]
SAMPLE = pd.DataFrame({"x": [0, 9000, 4000], "y": [0, 5000, 1000], "width": 50, "height": 50})


@pytest.mark.parametrize(("places", "length"), [(WHOLE, 200), (SAMPLE, 2000)])
@pytest.mark.parametrize("longest", [1200, 500])
def test_the_scale_bar_is_as_long_as_it_says(places: pd.DataFrame, length: int, longest: int) -> None:
    canvas = lay_out_patches(places, longest)
    bar, said = scale_bar(places, canvas)
    assert said == f"{length:,} px of the slide"
    assert bar * canvas.scale == pytest.approx(length)


def scale_bar(places: pd.DataFrame, canvas: Canvas) -> tuple[float, str]:
    """Length of the bar in pixels of the map, measured where it is drawn on the page, and its label."""
    tissue = np.zeros((*canvas.shape, 3), np.uint8)
    figure = draw_slide("1", graded(places), tissue, canvas, ("benign", "IDC"))
    figure.draw_without_rendering()
    axes = figure.axes[0]
    line, label = axes.lines[0], axes.texts[0]
    drawn = line.get_transform().transform(line.get_xydata())
    (left, _), (right, _) = axes.transData.inverted().transform(drawn)
    assert line.get_transform().transform(line.get_xydata())[0, 1] < axes.bbox.y0, "below the tissue"
    return float(right - left), str(label.get_text())


@pytest.mark.parametrize("places", [WHOLE, SAMPLE])
def test_legends_name_every_colour_that_is_drawn(places: pd.DataFrame) -> None:
    from matplotlib.colors import to_hex

    canvas = lay_out_patches(places)
    figure = draw_slide("1", graded(places), np.zeros((*canvas.shape, 3), np.uint8), canvas, ("benign", "IDC"))
    for axes, names in ((figure.axes[1], ("benign", "IDC")), (figure.axes[3], OUTCOMES)):
        legend, drawn = axes.get_legend(), (axes.images or axes.collections)[0]
        assert [text.get_text() for text in legend.get_texts()] == list(names)
        keys = [to_hex(patch.get_facecolor()) for patch in legend.get_patches()]
        assert keys == [to_hex(drawn.cmap(drawn.norm(code))) for code in range(len(names))]


@pytest.mark.slow
def test_a_whole_slide_is_saved_with_every_pixel_of_its_map(tmp_path: Path) -> None:
    patches, places = cut(pattern(700, 1000), 50)
    store, table = store_of(tmp_path, {"whole": places}, {"whole": patches})
    draw_slides(table, store, POINT, ALL, tmp_path)
    with PIL.Image.open(drawn_slides(tmp_path)[0][1]) as picture:
        assert picture.width > 4 * 1000


def test_patches_that_were_resized_are_not_cut() -> None:
    places = pd.DataFrame({"x": [0, 50], "y": [0, 0], "width": [50, 25], "height": [50, 50]})
    patches = np.zeros((2, 50, 50, 3), np.uint8)
    patches[1, :, 25:] = 255  # the right half of the narrow one, stretched when it was stored
    stretched = paint_tissue(lay_out_patches(places), patches, None)
    assert stretched[0, 50].tolist() == [0, 0, 0] and stretched[0, 74].tolist() == [255, 255, 255]
    assert (paint_tissue(lay_out_patches(places), patches, places) == 0).all()


@pytest.mark.parametrize("case", ["hospital/17", "../../outside", "..", "/etc/x", "a.b"])
def test_a_case_named_like_a_path_stays_in_its_folder(tmp_path: Path, case: str) -> None:
    assert (tmp_path / file_name(case)).resolve().parent == tmp_path.resolve()
    assert file_name(case) != file_name(case + "x")


@pytest.mark.parametrize("case", ["字" * 60, "ü" * 500, "A" * 3000])
def test_a_long_case_id_gives_a_name_that_file_systems_take(tmp_path: Path, case: str) -> None:
    (tmp_path / file_name(case)).touch()
    assert len(file_name(case).encode()) <= 200
    assert len({file_name(case), file_name(case + "x"), file_name("x" + case), file_name(case[:-1])}) == 4
    assert file_name("A" * 180) == "A" * 180 + ".png"


def test_patches_without_coordinates_give_no_slides(tmp_path: Path) -> None:
    patches, places = cut(pattern(100, 100), 50)
    nowhere = places.assign(x=None, y=None).astype({"x": "Int32", "y": "Int32"})
    store, table = store_of(tmp_path, {"whole": nowhere}, {"whole": patches})
    assert draw_slides(table, store, POINT, ALL, tmp_path).empty
    assert drawn_slides(tmp_path) == []
    assert not (tmp_path / "figures").exists()


@pytest.mark.slow
def test_an_mlflow_run_holds_the_first_slides_of_the_list_alone(tmp_path: Path) -> None:
    import mlflow

    pictures = tmp_path / "evaluation" / "figures" / SLIDES
    pictures.mkdir(parents=True)
    cases = [f"{number}" for number in reversed(range(LOGGED_SLIDES + 3))]
    for case in cases:
        PIL.Image.new("RGB", (4, 4)).save(pictures / file_name(case))
    listed = pd.DataFrame({"case_id": cases, "file": [file_name(case) for case in cases]})
    listed.to_csv(pictures.parents[1] / "slides.csv", index=False)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    try:
        experiment = mlflow.create_experiment("slides", (tmp_path / "artifacts").as_uri())
        with mlflow.start_run(experiment_id=experiment):
            log_files(pictures.parents[1])
    finally:
        mlflow.set_tracking_uri(before)
    logged = {path.name for path in (tmp_path / "artifacts").rglob("plots/slides/*")}
    assert logged == {file_name(case) for case in cases[:LOGGED_SLIDES]}
    assert list((tmp_path / "artifacts").rglob("plots/slides.csv"))
