"""params.yaml: every key is checked, and a slip is answered with what was probably meant."""

import math
from typing import Any

import pytest

from histopipe.core.errors import ParamsError
from histopipe.core.params import parse_params, read_params, require_name
from tests.builders.paths import ROOT


def change(content: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    *parents, last = path.split(".")
    section = content
    for name in parents:
        section = section[name]
    section[last] = value
    return content


def test_the_shipped_file_is_valid() -> None:
    params = read_params(ROOT / "params.yaml")
    assert params.datasets == ("idc",)
    assert params.quick is not None
    assert params.quick.max_epochs == 3


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        ("spilt", "split"),
        ("split.shceme", "split.scheme"),
        ("quick.max_epoch", "quick.max_epochs"),
        ("promotion.min_case", "promotion.min_cases"),
        ("idc.sorce", "idc.source"),
        ("recipes.cancernet.epoch", "recipes.cancernet.epochs"),
        ("published.cancernet.spilt", "published.cancernet.split"),
        ("recipes.cancernet.optimizer.learning_rat", "recipes.cancernet.optimizer.learning_rate"),
    ],
)
def test_a_misspelt_key_names_its_nearest_neighbour(content: dict[str, Any], path: str, nearest: str) -> None:
    with pytest.raises(ParamsError, match=rf"unknown key '{path}'; did you mean '{nearest}'\?"):
        parse_params(change(content, path, 1))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("seed", -1, "seed"),
        ("seed", "many", "seed"),
        ("split.train", 0.9, "must sum to 1, not 1.2"),
        ("split.scheme", "grouped_by", "split.scheme"),
        ("recipes.cancernet.batch_size", 0, "recipes.cancernet.batch_size"),
        ("datasets", [], "datasets"),
        ("architectures", ["cancernett"], "did you mean 'cancernet'"),
        ("datasets", ["icd"], "did you mean 'idc'"),
        ("recipes", 5, "recipes"),
        ("ingest.max_bad", 2, "ingest.max_bad"),
        ("quick", [], "quick"),
        ("datasets", 5, "datasets: write a list of names"),
        ("datasets", None, "datasets: write a list of names"),
        ("datasets", "idc", "datasets: write a list of names"),
        ("datasets", {"idc": 1}, "datasets: write a list of names"),
        ("datasets", [5], r"datasets\.0"),
        ("datasets", [["idc"]], r"datasets\.0"),
        ("architectures", 5, "architectures"),
        ("architectures", None, "architectures"),
        ("idc", 5, "idc"),
        ("idc", None, "idc"),
        ("recipes", None, "recipes"),
        ("search", {"cancernett": {}}, "search: unknown recipe 'cancernett'; did you mean 'cancernet'"),
        ("published.cancernett", {"dataset": "idc", "split": "by case", "metrics": {}}, "did you mean 'cancernet'"),
        ("search.cancernet", {"epochs": {"low": 9, "high": 1}}, "search.cancernet.epochs: low 9 must be below high 1"),
        ("recipes.cancernet", None, r"recipes\.cancernet"),
        ("split", None, "split"),
        ("evaluate", {"slides": 0}, "evaluate.slides"),
        ("evaluate", {"slides": "some"}, "evaluate.slides"),
        ("evaluate", {"slides": None}, "evaluate.slides"),
        ("evaluate", {"slide_side": 0}, "evaluate.slide_side"),
        ("evaluate", {"slide_side": "all"}, "evaluate.slide_side"),
    ],
)
def test_an_impossible_value_is_named(content: dict[str, Any], path: str, value: object, message: str) -> None:
    with pytest.raises(ParamsError, match=message) as caught:
        parse_params(change(content, path, value))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", [5, None, 1.5, True, ("a", "b")])
def test_a_key_that_is_no_text_is_named(content: dict[Any, Any], key: object) -> None:
    for datasets in (["idc"], ["idc", key]):
        with pytest.raises(ParamsError) as caught:
            parse_params(content | {"datasets": datasets, key: {"manifest": "a.csv"}})
        assert "\n" not in str(caught.value)
    for section in ("split", "recipes", "idc", "synthetic"):
        with pytest.raises(ParamsError, match=section):
            parse_params(content | {section: {key: 1}})


@pytest.mark.parametrize("name", ["a/b", "../idc", "IDC", "", "5", "idc\n", "idc-x"])
def test_a_name_that_could_leave_its_folder_is_refused(name: str) -> None:
    with pytest.raises(ParamsError, match="is no data set name"):
        require_name("data set", name)


def test_an_own_data_set_needs_a_manifest(content: dict[str, Any]) -> None:
    content |= {"datasets": ["mine"], "mine": {"source": "images"}}
    with pytest.raises(ParamsError, match=r"mine\.manifest is missing"):
        parse_params(content)
    content["mine"]["manifest"] = "mine.csv"
    assert parse_params(content).dataset("mine").manifest == "mine.csv"


def test_case_ids_may_be_written_as_numbers(content: dict[str, Any]) -> None:
    assert parse_params(change(content, "idc.exclude_cases", [8863])).dataset("idc").exclude_cases == ("8863",)


def test_quick_may_be_null(content: dict[str, Any]) -> None:
    assert parse_params(change(content, "quick", None)).quick is None


def test_parameters_cannot_be_changed_after_reading(params: Any) -> None:
    with pytest.raises(ValueError, match="frozen"):
        params.seed = 1


@pytest.mark.parametrize("text", ["{", "- a\n- b", "", "a: [", "\x00"])
def test_a_file_that_is_not_a_mapping_is_refused(tmp_path: Any, text: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ParamsError, match=r"params\.yaml"):
        read_params(path)


def test_the_presets_train_as_their_tutorials_ran() -> None:
    """The generator reads a shear of .05 as degrees; the malaria tutorial's residual modules keep an L2 of 1e-4."""
    params = read_params(ROOT / "params.yaml")
    for name in ("cancernet", "resnet"):
        assert params.recipe(name).augmentation.shear == pytest.approx(math.tan(math.radians(0.05)), rel=0.01)
    assert (params.recipe("resnet").model["l2"], params.recipe("resnet").model["module_l2"]) == (5e-4, 1e-4)


def test_no_figure_of_other_networks_passes_for_a_published_one() -> None:
    """Nine networks had .91 to .93 by patient on BreakHis, DenseNet121 among them and DenseNet201 not."""
    assert "densenet201" not in read_params(ROOT / "params.yaml").published


def test_a_published_bound_is_told_as_one() -> None:
    """The repository of the wide network says "over .85", which a bare .850 would not."""
    published = read_params(ROOT / "params.yaml").published["wide_resnet"]
    assert (published.metrics, published.source) == ({"accuracy": 0.85}, "the authors say: over .85")


def test_keys_of_an_earlier_version_are_told_one_line_each(content: dict[str, Any]) -> None:
    ranges, published = content.pop("search"), content.pop("published")
    content["recipes"]["cancernet"] |= {"search": ranges["cancernet"], "published": published["cancernet"]}
    content["recipes"]["resnet"]["published"] = published["resnet"]
    with pytest.raises(ParamsError) as caught:
        parse_params(content)
    assert str(caught.value).splitlines() == [
        f"params.yaml: recipes.{name}.{key} moved: write it as {key}.{name}, in a block `{key}:` at the top level"
        for name, key in (("cancernet", "search"), ("cancernet", "published"), ("resnet", "published"))
    ]
