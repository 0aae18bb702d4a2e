"""Curves of what a network makes of part of a patch, which patches are looked at, and what chance is."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from histopipe.evaluation.explanation.check import BETTER, UNDECIDED, WORSE, check_maps, sample_over_cases, verdict
from histopipe.evaluation.explanation.figures import draw_gallery, overlay, side_by_side
from histopipe.evaluation.explanation.gallery import RIGHT, UNCERTAIN, WRONG, choose_gallery
from histopipe.evaluation.explanation.references import darkness
from histopipe.evaluation.explanation.removal import area_under_curve, blank, move_maps, rank_pixels, removal_curves


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def test_the_area_is_that_of_trapezoids() -> None:
    assert area_under_curve(np.array([[1.0, 0.5, 0.0], [0.3, 0.3, 0.3], [0.0, 1.0, 0.0]])).tolist() == [0.5, 0.3, 0.5]
    assert area_under_curve(np.array([[1.0, 0.8, 0.2, 0.0, 0.0]]))[0] == pytest.approx((0.5 + 0.8 + 0.2) / 4)


def test_pixels_go_in_falling_order_and_those_of_one_value_at_random() -> None:
    maps = np.array([[[0.5, 3.0], [-1.0, 2.0]]], np.float32)
    assert rank_pixels(maps, generator()).tolist() == [[[2, 0], [3, 1]]]
    level = np.zeros((200, 3, 3), np.float32)
    places = rank_pixels(level, generator())
    assert (np.sort(places.reshape(200, 9), axis=1) == np.arange(9)).all()
    assert places.mean(axis=0) == pytest.approx(4, abs=0.8), "a map that says nothing must not mean top to bottom"


def test_moved_maps_keep_their_values_and_lose_their_place() -> None:
    maps = np.zeros((300, 6, 9), np.float32)
    maps[:, 2, 3], maps[:, 2, 4] = 5, 4
    found = move_maps(maps, generator())
    assert (np.sort(found.reshape(300, -1), axis=1) == np.sort(maps.reshape(300, -1), axis=1)).all()
    rows, columns = np.nonzero(found == 5)[1:]
    assert set(rows) == set(range(6)) and set(columns) == set(range(9))
    beside = np.nonzero(found == 4)[2] - columns
    assert set(beside % 9) == {1, 8}, "neighbours stay neighbours, also round the edge; some are flipped"


def test_curves_of_a_known_predictor() -> None:
    """One patch of four pixels, 0, 40, 80 and 120 bright (mean 60), watched for its brightness."""
    patches = np.repeat(np.array([[[0, 40], [80, 120]]], np.uint8)[..., np.newaxis], 3, axis=3)
    brightest_first = np.array([[[3, 2], [1, 0]]])
    darkest_first = 3 - brightest_first
    deletion, insertion = removal_curves(
        patches, [brightest_first, darkest_first], lambda batch: batch.mean(axis=(1, 2, 3)), steps=4
    )
    assert deletion[:, 0].tolist() == [[60, 45, 40, 45, 60], [60, 75, 80, 75, 60]]
    assert insertion[:, 0].tolist() == [[60, 75, 80, 75, 60], [60, 45, 40, 45, 60]]


def test_a_blank_patch_has_its_mean_colour_everywhere() -> None:
    patches = generator().integers(0, 256, (3, 5, 4, 3)).astype(np.uint8)
    found = blank(patches)
    assert found.shape == patches.shape and found.dtype == np.uint8
    assert found[:, 2, 3] == pytest.approx(patches.mean(axis=(1, 2)), abs=0.5)


def test_a_sample_takes_from_all_cases_and_both_classes_alike() -> None:
    case_ids = pd.Series(["a"] * 100 + ["b"] * 20 + ["c"] * 2)
    called = np.array(([1] + [0] * 9) * 12 + [0, 0])
    places = sample_over_cases(case_ids, called, 10, seed=1)
    found = pd.crosstab(case_ids[places], called[places])
    assert found.to_numpy().tolist() == [[2, 2], [2, 2], [2, 0]]  # of c no patch is called positive
    assert places.tolist() == sample_over_cases(case_ids, called, 10, seed=1).tolist()
    assert places.tolist() != sample_over_cases(case_ids, called, 10, seed=2).tolist()
    assert sample_over_cases(case_ids, called, 1000, seed=1).tolist() == list(range(122))


def bright_square(count: int = 60, size: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Noise with a bright square somewhere, and where it is, (count, size, size)."""
    random = generator(3)
    patches = random.integers(60, 100, (count, size, size, 3))
    inside = np.zeros((count, size, size), bool)
    for number, (top, left) in enumerate(random.integers(0, size - 6, (count, 2))):
        inside[number, top : top + 6, left : left + 6] = True
    return np.where(inside[..., np.newaxis], 220, patches).astype(np.uint8), inside


def brightness(patches: np.ndarray) -> np.ndarray:
    """A probability that the number of bright pixels decides: .5 at 18, half a square."""
    bright = (patches.mean(axis=3) > 180).sum(axis=(1, 2))
    return np.asarray(1 / (1 + np.exp(-(bright - 18) / 4)))


def checked(patches: np.ndarray, maps: np.ndarray, called: int = 1, seed: int = 0) -> dict:
    cases = pd.Series(np.arange(len(patches)) % 12).astype(str)
    watched = brightness if called else lambda batch: 1 - brightness(batch)
    calls = np.full(len(patches), called)
    return check_maps(patches, maps.astype(np.float32), calls, cases, watched, resamples=500, seed=seed)


@pytest.mark.parametrize("called", [0, 1])
def test_a_map_of_what_decides_is_better_than_chance(called: int) -> None:
    patches, inside = bright_square()
    maps = np.where(inside, 1.0, 0.0) * (1 if called else -1)
    found = checked(patches, maps, called)
    assert found["verdict"] == BETTER
    assert found["deletion"]["map"]["value"] < 0.5 * found["deletion"]["chance"]["value"]
    assert found["insertion"]["map"]["low"] > found["insertion"]["chance"]["high"]
    assert found["gain"]["p"] == 2 / 2**12  # all twelve cases alike: none of the other ways reaches as far
    assert (found["patches"], found["cases"]) == (60, 12)
    assert checked(patches, -maps, called)["verdict"] == WORSE


@pytest.mark.parametrize("kind", ["flat", "rough"])
def test_maps_of_nothing_are_told_from_chance_as_seldom_as_they_may_be(kind: str) -> None:
    """At 95 %, one interval in twenty misses 0; of 20, more than 4 would be odd (binomial, p = .003)."""
    patches, inside = bright_square(36)
    decided = 0
    for seed in range(20):
        rough = np.kron(generator(seed + 10).normal(size=(len(patches), 4, 4)), np.ones((6, 6)))
        maps = rough if kind == "rough" else np.zeros(inside.shape)
        decided += checked(patches, maps, seed=seed)["verdict"] != UNDECIDED
    assert decided <= 4


def test_one_case_alone_decides_nothing() -> None:
    patches, inside = bright_square(8)
    cases, calls = pd.Series(["a"] * 8), np.ones(8, int)
    found = check_maps(patches, inside.astype(np.float32), calls, cases, brightness, resamples=100, seed=0)
    assert found["gain"]["value"] > 0.2
    assert found["verdict"] == UNDECIDED


@pytest.mark.parametrize("called", [0, 1])
def test_a_map_is_held_against_others_by_case(called: int) -> None:
    patches, inside = bright_square()
    own = np.where(inside, 1.0, 0.0).astype(np.float32)
    others = {"the same": own, "upside down": own[:, ::-1]}
    cases, calls = pd.Series(np.arange(60) % 12).astype(str), np.full(60, called)
    watched = brightness if called else lambda batch: 1 - brightness(batch)
    signed = own if called else -own
    found = check_maps(patches, signed, calls, cases, watched, resamples=500, seed=0, references=others)
    assert found["verdict"] == f"{BETTER}; not distinguishable from the same; better than upside down"
    gains = {name: entry["gain"] for name, entry in found["references"].items()}
    assert gains["the same"]["value"] == pytest.approx(0, abs=0.02)
    assert 0 < gains["upside down"]["low"] < gains["upside down"]["value"]
    assert found["deletion"]["upside down"]["value"] > found["deletion"]["map"]["value"]
    assert len(found["curves"]["insertion"]["upside down"]) == len(found["curves"]["shares"])
    chance = checked(patches, signed, called)
    assert {name: chance[name] for name in ("gain", "deletion")} == {
        "gain": found["gain"],
        "deletion": {name: found["deletion"][name] for name in ("map", "chance", "gain")},
    }, "what chance does is the same with references as without"


def test_darkness_is_of_the_surroundings_and_as_coarse_as_the_map() -> None:
    patches = np.full((1, 24, 24, 3), 200, np.uint8)
    patches[0, 4:8, 4:8] = 20
    fine, coarse = (darkness(patches, (places, places))[0] for places in (24, 4))
    assert np.unravel_index(fine.argmax(), fine.shape) in [(row, column) for row in (5, 6) for column in (5, 6)]
    assert fine.max() > coarse.max() > coarse.min() == pytest.approx(55, abs=2)


def test_what_a_verdict_says() -> None:
    assert verdict({"value": 0.1, "low": 0.01, "high": 0.2}) == BETTER
    assert verdict({"value": 0.1, "low": 0.0, "high": 0.2}) == UNDECIDED
    assert verdict({"value": -0.1, "low": -0.2, "high": -0.01}) == WORSE


def graded(label: list[int], probability: list[float], cases: list[str] | None = None, threshold: float = 0.4):
    table = pd.DataFrame({"label": label, "probability": probability})
    table["file"] = [f"{number:02}.png" for number in range(len(table))]
    table["case_id"] = cases or [f"case {number}" for number in range(len(table))]
    table["decision"] = (table["probability"] >= threshold).astype(int)
    return table


def files(chosen: pd.DataFrame, group: str, label: int) -> list[str]:
    return chosen["file"][(chosen["group"] == group) & (chosen["label"] == label)].tolist()


def test_the_gallery_holds_the_surest_and_the_least_certain_of_each_class() -> None:
    positive = [0.99, 0.9, 0.7, 0.42, 0.3, 0.2, 0.01]
    chosen = choose_gallery(graded([1] * 7, positive), 0.4, per_row=2)
    assert files(chosen, RIGHT, 1) == ["00.png", "01.png"]
    assert files(chosen, WRONG, 1) == ["06.png", "05.png"]
    assert files(chosen, UNCERTAIN, 1) == ["03.png", "04.png"]
    mirrored = choose_gallery(graded([0] * 7, [1 - value for value in positive], threshold=0.6), 0.6, per_row=2)
    assert mirrored["file"].tolist() == chosen["file"].tolist()
    assert set(mirrored["label"]) == {0}


def test_least_certain_is_measured_from_the_threshold_in_log_odds() -> None:
    chosen = choose_gallery(graded([1] * 4, [0.02, 0.10, 0.001, 0.9], threshold=0.05), 0.05, per_row=1)
    assert files(chosen, UNCERTAIN, 1) == ["01.png"]  # .10 is twice the threshold, .02 less than half of it
    assert choose_gallery(graded([1] * 2, [1.0, 0.0]), 0.4)["group"].tolist() == [RIGHT, WRONG]


def test_one_case_does_not_fill_a_row_and_ties_go_by_name() -> None:
    cases = ["a"] * 5 + ["b", "c", "c", "c"]
    chosen = choose_gallery(graded([1] * 9, [1.0] * 9, cases), 0.4)
    assert files(chosen, RIGHT, 1) == ["00.png", "01.png", "05.png", "06.png"]
    assert chosen["file"].is_unique, "a patch is shown once"
    assert files(chosen, UNCERTAIN, 1) == ["02.png", "03.png", "07.png", "08.png"]


def test_few_patches_and_a_model_that_calls_everything_alike_leave_rows_empty() -> None:
    chosen = choose_gallery(graded([0, 1, 1], [0.1, 0.2, 0.3]), 0.4)
    assert files(chosen, RIGHT, 0) == ["00.png"]
    assert files(chosen, WRONG, 1) == ["01.png", "02.png"]
    assert len(chosen) == 3
    assert choose_gallery(graded([], []), 0.4).empty


def test_an_overlay_is_grey_where_nothing_speaks_and_coloured_where_most_does() -> None:
    patch = np.full((4, 4, 3), 100, np.uint8)
    evidence = np.zeros((4, 4), np.float32)
    evidence[0, 0], evidence[3, 3], evidence[0, 3] = 8, -8, 2
    found = overlay(patch, evidence)
    colour = np.ptp(found, axis=-1)
    assert found[1, 1] == pytest.approx([100 / 255] * 3)
    assert colour[0, 0] > colour[0, 3] > 0.01
    red, blue = found[..., 0], found[..., 2]
    assert red[0, 0] > blue[0, 0] and blue[3, 3] > red[3, 3]
    assert np.ptp(overlay(patch, np.zeros((4, 4), np.float32))) == 0
    assert side_by_side(patch, evidence).shape == (4, 9, 3)


def test_the_gallery_can_be_drawn_of_nothing_and_without_places() -> None:
    chosen = choose_gallery(graded([0, 1, 1], [0.1, 0.2, 0.3]), 0.4).assign(x=np.nan, y=np.nan)
    point = {"negative_class": "benign", "positive_class": "IDC", "threshold": 0.4}
    patches = np.zeros((3, 8, 8, 3), np.uint8)
    figure = draw_gallery(chosen, patches, np.ones((3, 8, 8), np.float32), point, "title")
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert [title.removesuffix(", none") for title in titles if title.endswith(", none")] == [
        f"{RIGHT}: IDC",
        f"{WRONG}: benign called IDC",
        f"{UNCERTAIN}: benign",
        f"{UNCERTAIN}: IDC",
    ]
    captions = [axes.get_xlabel() for axes in figure.axes if axes.get_xlabel().startswith("case")]
    assert captions[0] == "case case 0\nbenign: P(IDC) 0.100, threshold 0.400"
    assert len(captions) == 3
