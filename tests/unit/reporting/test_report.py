"""The comparison as one page: nothing from elsewhere, nothing unescaped, the numbers of `comparison.json`."""

from __future__ import annotations

import html
import re
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from histopipe.core.errors import EvaluationError, HistopipeError
from histopipe.core.files import write_json
from histopipe.core.workspace import Workspace
from histopipe.evaluation.metrics import METRICS
from histopipe.reporting.comparison.table import as_markdown
from histopipe.reporting.report.answer import answer
from histopipe.reporting.report.bars import BAR_MARGIN, BAR_WIDTH, bars
from histopipe.reporting.report.drawings import SERIES, THEME, drawing
from histopipe.reporting.report.figures import draw_learning, draw_roc_curves
from histopipe.reporting.report.page import render_page
from histopipe.reporting.report.pictures import embed
from histopipe.reporting.stage import compare
from histopipe.training.figures import draw_losses, draw_metrics
from tests.builders.reports import HISTORY, HOSTILE, LINEAGE, MATHEMATICAL, cells, make_reported, report_params

STRENGTHS = {"cancernet": 2.0, "resnet": 0.4}


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, dict[str, Any]]:
    """Two networks' evaluations, and what `compare` made of them."""
    workspace = make_reported(tmp_path_factory.mktemp("evaluated"), STRENGTHS)
    return workspace, compare("idc", report_params(*STRENGTHS), workspace)


@pytest.fixture(scope="module")
def page(compared: tuple[Workspace, dict[str, Any]]) -> str:
    return (compared[0].report("idc") / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def content(compared: tuple[Workspace, dict[str, Any]]) -> dict[str, Any]:
    return compared[1]


@pytest.fixture
def workspace(compared: tuple[Workspace, dict[str, Any]], tmp_path: Path) -> Workspace:
    """A copy that a test may damage."""
    shutil.copytree(compared[0].root, tmp_path / "copy")
    return Workspace(tmp_path / "copy")


def rows_of(page: str, first: str) -> list[list[str]]:
    return [row for row in cells(page) if row and row[0] == first]


@pytest.mark.slow
def test_the_page_shows_the_numbers_of_the_comparison(page: str, content: dict[str, Any]) -> None:
    rows = cells(page)
    for ranked in content["ranking"]:
        shown = next(row for row in rows if len(row) == len(METRICS) + 4 and row[1] == ranked["architecture"])
        for place, name in enumerate(METRICS, start=2):
            measured = ranked["test"][name]
            assert shown[place] == f"{measured['value']:.3f} [{measured['low']:.3f}, {measured['high']:.3f}]"
        assert shown[-2:] == [f"{ranked['threshold']:.3f}", f"{ranked['validation']['roc_auc']:.3f}"]
        first, last = ranked["rank_range"] or (None, None)
        assert shown[0] == ("–" if first is None else str(first) if first == last else f"{first}–{last}")
        assert (first is None) == (ranked["architecture"] not in STRENGTHS)
    for pair in content["pairs"]:
        (shown,) = rows_of(page, f"{pair['first']} − {pair['second']}")
        recipes = {pair["first"], pair["second"]} <= set(STRENGTHS)
        assert shown[1] == (("separable" if pair["separable"] else "not separable") if recipes else "descriptive")
        assert shown[2].startswith(f"{pair['differences']['roc_auc']['value']:+.3f} [")


def test_data_split_published_figures_and_lineage_are_there(page: str, content: dict[str, Any]) -> None:
    assert rows_of(page, "second copy") == [["second copy", "30", "no", "IDC_regular/8863 (30)"]]
    assert rows_of(page, "train") == [["train", "6", "216", "72", "33.3 %"]]
    ours = next(row for row in content["ranking"] if row["architecture"] == "cancernet")["test"]["accuracy"]
    published = next(row for row in rows_of(page, "cancernet") if row[1] == "accuracy")
    assert published[2:4] == ["0.837", "by image, at 48 px"]
    assert published[4].startswith(f"{ours['value']:.3f} [")
    took, made = rows_of(page, "resnet")[-2:]
    assert took == ["resnet", "579,516", "2", "1", "random", "12.3", "456.7", "1,234 MB"]
    assert made[1] == f"{LINEAGE['git_commit']} and uncommitted changes"
    assert made[2:5] == ["5708e.dir", "59117", "1" * 32]
    assert made[5] == "Python 3.11.9, histopipe 0.1.0, Keras 3.15.1, TensorFlow 2.21.0"


def test_every_model_has_its_confusion_worst_cases_curves_and_slides(page: str) -> None:
    for number in (1, 2):
        part = page.split(f'<section id="model-{number}">')[1].split("</section>", maxsplit=1)[0]
        assert part.count("<svg viewBox") == 6
        assert part.count("<img ") == 4  # three slides and the gallery
        confusion = [row for row in cells(part) if row and row[0] in ("benign", "IDC")]
        counts = [int(cell.split(" (")[0]) for row in confusion for cell in row[1:]]
        assert sum(counts) == 6 * 36
        assert "3 more in <code>evaluations/idc/" in part
        assert "before: error 0." in part


def drawn(page: str, title: str) -> str:
    """The drawing of that title, with its caption."""
    (found,) = [part for part in page.split('<figure class="plot">') if f'aria-label="{title}:' in part]
    return found.split("</figure>", maxsplit=1)[0]


def texts(svg: str) -> list[str]:
    return [html.unescape(text) for text in re.findall(r">([^<]+)</text>", svg)]


def test_drawings_keep_their_text_and_say_what_they_show(page: str) -> None:
    roc = drawn(page, "cancernet: ROC curve")
    label = "cancernet: ROC curve: sensitivity (IDC detected) against 1 - specificity (benign called IDC)"
    assert f'aria-label="{label}"' in roc
    assert any(text.startswith("AUC 0.") for text in texts(roc))
    assert "<strong>cancernet: ROC curve</strong>" in roc
    assert {"cancernet", "resnet", "chance"} <= set(texts(drawn(page, "ROC curves")))


def test_drawings_follow_the_readers_theme(page: str) -> None:
    drawings = re.findall(r'<svg viewBox="0 0 [^>]*role="img".*?</svg>', page, re.S)
    assert len(drawings) == 2 + 6 * len(STRENGTHS)
    assert not [colour for svg in drawings for colour in re.findall(r'style="[^"]*(#[0-9a-fA-F]{6})', svg)]
    assert {THEME[colour.lower()] for colour in SERIES} == {f"var(--c{number})" for number in range(8)}


def test_ids_are_those_of_one_drawing(page: str) -> None:
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'xlink:href="#([^"]+)"', page) + re.findall(r"url\(#([^)]+)\)", page)) <= set(ids)


def test_names_in_drawings_are_letters(page: str) -> None:
    curve = pd.DataFrame({"fpr": [0, 1], "tpr": [0, 1]})
    svg = drawing(draw_roc_curves([(HOSTILE, curve), (MATHEMATICAL, curve)]), HOSTILE).svg
    assert "<script" not in svg
    assert {HOSTILE, MATHEMATICAL} <= set(texts(svg))


def test_learning_curves_hold_every_epoch_and_leave_out_what_is_no_number(page: str) -> None:
    for column, panel in (("validation/roc_auc", draw_metrics), ("train/loss", draw_losses)):
        (axes,) = draw_learning(panel, "metric", HISTORY).axes
        np.testing.assert_array_equal(axes.lines[0].get_xydata(), HISTORY[["epoch", column]])
    metrics = drawn(page, "cancernet: validation metrics")
    assert {"epoch", "metric", "ROC AUC", "accuracy"} <= set(texts(metrics))
    assert {"1", "2", "3"} <= set(texts(metrics)) and "1.5" not in texts(metrics)
    overflowed = HISTORY.assign(**{"train/loss": [np.inf, 0.6, 0.5]})
    svg = drawing(draw_learning(draw_losses, "loss", overflowed), "loss").svg
    assert "nan" not in svg and "inf" not in svg


def test_every_case_is_a_dot_from_the_worst_to_the_best(page: str, workspace: Workspace) -> None:
    cases = pd.read_csv(workspace.evaluation("idc", "resnet") / "cases.csv")
    assert cases["accuracy"].is_monotonic_increasing
    svg = drawn(page, "resnet: accuracy of every case")
    assert svg.count("fill-opacity: 0.6") == len(cases) == 6
    patches = (cases["accuracy"] * cases["patches"]).sum() / cases["patches"].sum()
    assert f"all patches {patches:.3f}" in texts(svg)


def test_candidates_are_no_epochs() -> None:
    (axes,) = draw_learning(draw_losses, "loss", HISTORY.assign(c=[0.1, 1.0, 10.0])).axes
    assert axes.get_xlabel() == "candidate"


@pytest.mark.slow
def test_the_slides_shown_are_those_of_which_most_is_known(workspace: Workspace, content: dict[str, Any]) -> None:
    path = workspace.evaluation("idc", "resnet") / "slides.csv"
    slides = pd.read_csv(path, dtype=str)
    slides.iloc[::-1].to_csv(path, index=False)
    page = render_page(content, report_params(*STRENGTHS), workspace)
    shown = [html.unescape(name) for name in re.findall(r'alt="resnet, case ([^"]*): tissue', page)]
    assert shown == slides["case_id"].tolist()[::-1][:3]
    assert set(slides["case_id"]) >= {HOSTILE, MATHEMATICAL}


def test_names_from_archives_are_escaped(page: str) -> None:
    assert "<script" not in page
    assert "onerror" in page and "<img src=x" not in page  # shown, not obeyed
    assert "&lt;script&gt;alert(&#39;case&#39;)&lt;/script&gt;" in page
    assert any(HOSTILE in row for row in cells(page))
    assert re.search(r'alt="[^"<>]*, case &lt;script&gt;', page)


def test_the_page_names_nothing_outside_itself(page: str) -> None:
    addresses = re.findall(r'(?:src|href|action|data|poster)\s*=\s*"([^"]*)"', page) + re.findall(r"url\(([^)]*)", page)
    assert addresses
    assert all(address.startswith(("#", "data:")) for address in addresses)
    assert "@import" not in page
    assert {"default-src 'none'; img-src data:; style-src 'unsafe-inline'"} == set(
        re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    )


def test_headings_are_in_order_and_links_lead_somewhere(page: str) -> None:
    assert '<html lang="en">' in page
    levels = [int(level) for level in re.findall(r"<h([1-6])>", page)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert set(re.findall(r'<a href="#([^"]+)"', page)) == set(re.findall(r'<section id="([^"]+)"', page))
    assert all('alt="' in tag for tag in re.findall(r"<img [^>]*>", page))


@pytest.mark.slow
def test_the_same_files_give_the_same_page(workspace: Workspace, page: str, content: dict[str, Any]) -> None:
    assert render_page(content, report_params(*STRENGTHS), workspace) == page


@pytest.mark.slow
def test_one_model_has_nothing_to_be_compared_with(workspace: Workspace) -> None:
    content = compare("idc", report_params("resnet"), workspace)
    page = (workspace.report("idc") / "index.html").read_text(encoding="utf-8")
    assert content["pairs"] == []
    assert "there is no other model to compare it with" in page
    assert 'id="pairs"' not in page and "#pairs" not in page


@pytest.mark.slow
def test_what_is_missing_is_left_out(workspace: Workspace, content: dict[str, Any]) -> None:
    for path in (workspace.evaluation("idc", "cancernet")).glob("*.csv"):
        path.unlink()
    shutil.rmtree(workspace.evaluation("idc", "cancernet") / "figures")
    for name in ("run.json", "history.csv"):
        (workspace.model("idc", "cancernet") / name).unlink()
    (workspace.store("idc") / "report.json").unlink()
    page = render_page(content, report_params(*STRENGTHS), workspace)
    part = page.split(f'<section id="{section_of(page, "cancernet")}">')[1].split("</section>")[0]
    assert "<svg viewBox" not in part and "<img" not in part
    assert "Confusion" in part and "Worst cases" not in part
    assert "data/store/idc/report.json is missing" in page
    assert "not recorded" in page


def section_of(page: str, name: str) -> str:
    (found,) = re.findall(rf'href="#([^"]+)">{name}<', page)
    return str(found)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("evaluations/idc/resnet/roc.csv", b"", "roc.csv is not a readable table"),
        ("evaluations/idc/resnet/cases.csv", b"patches\n3\n", "cases.csv has no column case_id"),
        ("evaluations/idc/resnet/figures/gallery.png", b"GIF89a", "gallery.png is not a readable picture"),
        ("evaluations/idc/resnet/slides.csv", b"case_id\n1\n", "slides.csv has no column file"),
        ("models/idc/resnet/history.csv", b"epoch\n1\n", "history.csv has no column train/loss, validation/loss"),
        ("models/idc/resnet/run.json", b"{", "run.json is not valid JSON"),
        ("data/store/idc/report.json", b"\xff", "report.json is not valid JSON"),
        ("data/store/idc/report.json", b"[1]", "report.json holds no names and values"),
    ],
)
def test_what_is_damaged_is_named(
    workspace: Workspace, content: dict[str, Any], name: str, damage: bytes, said: str
) -> None:
    (workspace.root / name).write_bytes(damage)
    with pytest.raises(HistopipeError, match=re.escape(said)) as caught:
        render_page(content, report_params(*STRENGTHS), workspace)
    assert "\n" not in str(caught.value)


def test_a_page_that_fails_leaves_the_old_report(workspace: Workspace, page: str) -> None:
    (workspace.evaluation("idc", "resnet") / "roc.csv").write_bytes(b"")
    with pytest.raises(EvaluationError, match="not a readable table"):
        compare("idc", report_params(*STRENGTHS), workspace)
    assert (workspace.report("idc") / "index.html").read_text(encoding="utf-8") == page
    assert [path.name for path in workspace.report("idc").parent.iterdir()] == ["idc"]


def ranked(*names: str) -> list[dict[str, Any]]:
    measured = {"value": 0.9, "low": 0.85, "high": 0.94}
    return [{"architecture": name, "test": {"roc_auc": measured}, "cases": 1042} for name in names]


def pair(second: str, separable: bool) -> dict[str, Any]:
    differences = {"roc_auc": {"value": 0.03, "low": 0.01, "high": 0.05}}
    return {
        "first": "a",
        "second": second,
        "differences": differences,
        "p_corrected": 0.012 if separable else 0.3,
        "separable": separable,
    }


@pytest.mark.parametrize(
    ("separable", "said"),
    [
        ((), "a reaches a ROC AUC of 0.900 [0.850, 0.940] on 1,042 test cases; there is no other model to compare"),
        (
            (True, True),
            "a is best, with a ROC AUC of 0.900 [0.850, 0.940] on 1,042 test cases: +0.030 [+0.010, +0.050]",
        ),
        ((True, True), "ahead of b, the next (p = .012, corrected)."),
        (
            (False, True),
            "Not separable: a has the highest ROC AUC, 0.900 [0.850, 0.940] on 1,042 test cases, but isn't",
        ),
        ((False, True), "separable from b."),
        ((False, False, False), "separable from b, c or d."),
    ],
)
def test_the_answer_is_one_sentence(separable: tuple[bool, ...], said: str) -> None:
    names = "bcd"[: len(separable)]
    pairs = [pair(name, apart) for name, apart in zip(names, separable, strict=True)]
    found = answer({"ranking": ranked("a", *names), "pairs": pairs})
    assert said in found
    assert found.endswith(".") and "\n" not in found


def test_the_answer_is_about_recipes() -> None:
    rows = [{**ranked("ensemble")[0], "descriptive": True}, *ranked("a", "b")]
    descriptive = {**pair("a", False), "first": "ensemble", "descriptive": True}
    found = answer({"ranking": rows, "pairs": [descriptive, pair("b", True)]})
    assert found.startswith("a is best") and "ensemble" not in found


@pytest.mark.slow
def test_pictures_share_what_the_page_may_take(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (700, 1900, 3), np.uint8)
    files = [(tmp_path / f"{number}.png", "noise") for number in range(3)]
    for path, _ in files:
        Image.fromarray(noise).save(path)
    found = embed(files, total=300_000)
    assert {picture.alt for picture in found.values()} == {"noise"}
    assert sum(len(picture.source) for picture in found.values()) < 300_000 * 4 / 3 + 200
    assert all(picture.width >= 200 for picture in found.values())
    assert embed(files[:1])[files[0][0]].width > 400


def test_a_picture_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(EvaluationError, match=r"a\.png is not a readable picture"):
        embed([(tmp_path / "a.png", "")])


def test_bars_share_a_scale_and_undefined_ones_are_absent() -> None:
    found = bars(
        [
            {"value": 0.5, "low": 0.0, "high": 1.0},
            {"value": None, "low": None, "high": None},
            {"value": 0.25, "low": 0.25, "high": 0.75},
        ]
    )
    assert found[1] is None
    first, last = found[0], found[2]
    assert first and last
    assert (first.low, first.value, first.high) == (BAR_MARGIN, BAR_WIDTH / 2, BAR_WIDTH - BAR_MARGIN)
    assert last.low == last.value == pytest.approx(BAR_MARGIN + (BAR_WIDTH - 2 * BAR_MARGIN) / 4, abs=0.05)
    assert first.origin is None


def test_a_difference_is_drawn_with_its_zero() -> None:
    (found,) = bars([{"value": 0.2, "low": 0.1, "high": 0.3}], origin=0.0)
    assert found and found.origin == BAR_MARGIN < found.low < found.value < found.high == BAR_WIDTH - BAR_MARGIN


def test_long_curves_are_thinned_but_keep_their_ends() -> None:
    curve = pd.DataFrame({"fpr": np.linspace(0, 1, 1000), "tpr": np.linspace(0, 1, 1000)})
    svg = drawing(draw_roc_curves([("x", curve)]), "x").svg
    places = [re.findall(r"[\d.]+ [\d.]+", path) for path in re.findall(r'd="([^"]*)"', svg)]
    ends = [(path[0].split(), path[-1].split()) for path in places if path]
    slanting = [(start, end) for start, end in ends if all(map(str.__ne__, start, end))]
    assert len(slanting) == 2 and slanting[0] == slanting[1]  # the curve, and chance
    assert max(map(len, places)) < 300


@pytest.mark.slow
def test_the_page_says_which_ids_count_as_one_case(workspace: Workspace, content: dict[str, Any]) -> None:
    left_out = {"case": "P8", "group": "test", "copy": "P9", "stays": "train"}
    write_json(workspace.split_record("idc"), {"joined": [["8863", "9999"], ["1", "2", "3"]], "left_out": [left_out]})
    shown = render_page(content, report_params(*STRENGTHS), workspace)
    assert "count as one case in the split: 8863 = 9999; 1 = 2 = 3." in shown
    assert "P8 (test), a copy of P9 (train)" in shown


@pytest.mark.slow
def test_training_on_unlisted_cases_is_marked_as_not_the_published_protocol(
    workspace: Workspace, content: dict[str, Any]
) -> None:
    ranking = [{**row, "unlisted_train": row["architecture"] == "resnet"} for row in content["ranking"]]
    marked = {**content, "ranking": ranking}
    text = as_markdown(marked)
    assert "resnet†" in text and "cancernet†" not in text and "not the published protocol" in text
    assert "not the published protocol" not in as_markdown(content)
    assert "not the published protocol</span>" in render_page(marked, report_params(*STRENGTHS), workspace)
