"""`params.yaml` as frozen, typed objects; a misspelt key is an error that names its nearest valid neighbour."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_serializer,
    model_validator,
)

from histopipe.core.cases.ids import normal_id
from histopipe.core.cases.readings import Reading, default_reading
from histopipe.core.errors import ParamsError, did_you_mean, one_line
from histopipe.core.files import parse_yaml, read_yaml
from histopipe.core.known_datasets import KNOWN_DATASETS, MAGNIFIED_DATASETS
from histopipe.core.moved_keys import moved_keys
from histopipe.core.variants import Scheme, Study, VariantValue, parse_variant

Share = Annotated[float, Field(gt=0, lt=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


def _case_id(value: object) -> str:
    """A case id as it stands in YAML, where 8863 is a number and `no` a truth value: a case id is a name."""
    if isinstance(value, bool) or value is None:
        raise ValueError(f"YAML reads this as {str(value).lower()}, not as a name: put the case id in quotes")
    return normal_id(str(value))


CaseId = Annotated[str, BeforeValidator(_case_id)]
NAME_PATTERN = r"^[a-z][a-z0-9_]*$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
MAX_MEMBERS = 1_000_000  # of an archive; Kaggle's largest one here, IDC, holds 555,048 files with its second copy
RESERVED = ("baseline", "ensemble")  # rows of a comparison that no recipe trains
DATASET_FIELD = "{dataset}"  # in `tracking.registered_model`


class Section(BaseModel):
    """A block of `params.yaml`: no unknown keys, no change after reading."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DatasetParams(Section):
    """Where a data set comes from and what to leave out."""

    source: str = "synthetic"
    exclude_cases: tuple[CaseId, ...] = ()
    manifest: str | None = None
    patch_size: tuple[Count, Count] | None = None
    checksum: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")] | None = None
    complete: bool = False
    magnification: Literal[40, 100, 200, 400, "all"] | None = None  # only where a data set has several
    case: Reading | None = None  # only where names leave a choice; None: the data set's default
    mpp: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None  # micrometres to a stored patch's pixel


class SyntheticParams(Section):
    """How many synthetic slides to draw where a source is `synthetic`; for each data set anew."""

    cases: Count = 60
    patches: Count = 6000
    nested_copy: bool = True
    breakhis_patches: Count = 360  # at most: a field of 700x460 takes half a megabyte

    def patches_of(self, dataset: str) -> int:
        """How many to draw of one data set."""
        return min(self.patches, self.breakhis_patches) if dataset == "breakhis" else self.patches


class IngestParams(Section):
    """How much of an archive may be unusable before the stage fails, and how many members it may have."""

    max_bad: Fraction = 0.01
    max_members: Count = MAX_MEMBERS  # files, folders and links; Kaggle's IDC has 555,048


class SplitParams(Section):
    """How cases are divided; the three shares sum to 1."""

    scheme: Scheme = "grouped"
    train: Share = 0.70
    validation: Share = 0.15
    test: Share = 0.15
    folds: Annotated[int, Field(ge=3)] = 5
    unlisted: Literal["train", "drop"] = "drop"  # what becomes of cases in no published list

    @property
    def adds_unlisted(self) -> bool:
        """Whether cases in no published list train: then it isn't the published protocol."""
        return self.scheme == "canonical" and self.unlisted == "train"

    @model_validator(mode="after")
    def _shares_sum_to_one(self) -> SplitParams:
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train, validation and test must sum to 1, not {total:g}")
        return self


class QuickParams(Section):
    """Caps that make the out-of-the-box run short; each may be left out."""

    max_epochs: Count | None = None
    max_patches: Count | None = None
    max_image_size: Count | None = None
    weights: Literal["random"] | None = None


class TrainParams(Section):
    """How trainings run, whatever the recipe."""

    deterministic: bool = False
    parallel: Literal["auto"] | Count = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 (mixed) on a GPU that has it
    devices: Literal["one", "all"] = "one"  # all: one training over every GPU of the machine


Hours = Annotated[float, Field(gt=0, le=24 * 365)]


class TimeoutParams(Section):
    """Hours after which a stage that a flow started is taken to hang, and ended; variants and trials are trainings."""

    locate: Hours = 6.0  # a large archive is read for its digest
    fetch: Hours = 24.0  # also what DVC brings from its remote, or takes there
    ingest: Hours = 12.0
    split: Hours = 1.0
    weights: Hours = 2.0
    train: Hours = 72.0
    evaluate: Hours = 24.0
    compare: Hours = 6.0  # also what sums up a study or a search
    promote: Hours = 1.0
    predict: Hours = 72.0


class FlowParams(Section):
    """Where a flow's submitted tasks run: in threads of its own process, or on the workers of a Dask scheduler."""

    task_runner: Literal["threads", "dask"] = "threads"
    scheduler: str | None = None  # such as tcp://HOST:8786
    timeouts: TimeoutParams = TimeoutParams()
    part_shards: Count = 16  # shards of 32 MiB worth a worker's while: an ingest of fewer than twice as many stays

    @model_validator(mode="after")
    def _has_address(self) -> FlowParams:
        if self.task_runner == "dask" and not self.scheduler:
            raise ValueError("task_runner: dask needs the scheduler's address: scheduler: tcp://HOST:8786")
        return self


class ThresholdRule(Section):
    """How validation chooses the threshold.

    Written as `youden`, `f1`, `sensitivity>=0.95`, `sensitivity>=0.95@0.9`, or `{cost: {fn: 5, fp: 1}}`: what a missed
    positive and a false alarm cost. `@0.9` is the confidence with which new cases reach the sensitivity; without it
    the validation cases themselves do, and new ones fall short about half of the time.
    """

    name: Literal["youden", "f1", "sensitivity", "cost"]
    at_least: Annotated[float, Field(gt=0, le=1)] = 1.0
    confidence: Annotated[float, Field(ge=0.5, lt=1)] | None = None
    fn: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    fp: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0

    def __str__(self) -> str:
        if self.name == "sensitivity":
            bound = "" if self.confidence is None else f"@{self.confidence:g}"
            return f"sensitivity>={self.at_least:g}{bound}"
        return f"cost(fn={self.fn:g}, fp={self.fp:g})" if self.name == "cost" else self.name

    @model_serializer
    def _written(self) -> str | dict[str, dict[str, float]]:
        return {"cost": {"fn": self.fn, "fp": self.fp}} if self.name == "cost" else str(self)


def _threshold_rule(written: Any) -> Any:
    """The rule's fields from how it is written in `params.yaml`."""
    if written in ("youden", "f1"):
        return {"name": written}
    if isinstance(written, str) and (
        found := re.fullmatch(r"sensitivity *>= *([01]?\.?\d+)( *@ *(\d?\.?\d+))?", written)
    ):
        return {"name": "sensitivity", "at_least": float(found[1]), "confidence": float(found[3]) if found[2] else None}
    cost = written.get("cost") if isinstance(written, dict) and len(written) == 1 else None
    if isinstance(cost, dict) and set(cost) == {"fn", "fp"}:
        return {"name": "cost", **cost}
    if isinstance(written, ThresholdRule):
        return written
    raise ValueError("write youden, f1, sensitivity>=0.95, sensitivity>=0.95@0.9 or {cost: {fn: 5, fp: 1}}")


class EvaluateParams(Section):
    """How models are graded."""

    threshold: Annotated[ThresholdRule, BeforeValidator(_threshold_rule)] = ThresholdRule(name="youden")
    resamples: Annotated[int, Field(ge=100)] = 2000
    symmetries: bool = False  # also what a network that doesn't average over the eight symmetries would give if it did
    slides: Literal["all"] | Count = "all"  # how many test cases are put together again from their patches
    slide_side: Count | None = 1200  # pixels of a whole slide's longer side at most; None: every pixel of the slide


class CompareParams(Section):
    """What stands in the comparison beside the architectures."""

    neighbourhood: bool = False


class PromotionParams(Section):
    """What a model must show, on test cases that it never saw, before it becomes champion."""

    margin: Annotated[float, Field(ge=0, lt=1)] = 0.02  # of ROC AUC by which it may be worse than the champion
    total_margin: Annotated[float, Field(ge=0, lt=1)] | None = None  # and than the anchor; None: 2.5 times margin
    risk: Share = 0.05  # of a model that is worse by more than that, over all looks at the same test cases
    looks: Count = 365  # over which the risk is shared out
    min_roc_auc: Fraction = 0.5  # each floor is held against the end of the 95 % interval that lies on its side
    min_balanced_accuracy: Fraction = 0.5  # this and what follows: at the locked threshold
    min_specificity: Fraction = 0.2
    min_sensitivity: Fraction = 0.4
    max_calibration_error: Fraction = 0.2
    min_cases: Count = 8
    unknown_weights: Literal["refuse", "allow"] = "refuse"  # weights of which nobody knows the training cases

    @model_validator(mode="after")
    def _total_holds_a_step(self) -> PromotionParams:
        if self.total_margin is not None and self.total_margin < self.margin:
            raise ValueError(
                f"total_margin {self.total_margin:g} must be at least margin {self.margin:g}, which a single promotion "
                "may lose: raise the one or lower the other"
            )
        return self

    @property
    def anchor_margin(self) -> float:
        """ROC AUC by which a champion may be worse than the anchor, over any number of promotions."""
        return 2.5 * self.margin if self.total_margin is None else self.total_margin


class TrackingParams(Section):
    """What MLflow calls things; where it is, `MLFLOW_TRACKING_URI` says."""

    registered_model: Annotated[str, Field(pattern=r"^[\w.{}-]+( [\w.{}-]+)*$", max_length=200)] = "histopipe-{dataset}"

    def model_of(self, dataset: str) -> str:
        """The name under which models of a data set are registered."""
        return self.registered_model.replace(DATASET_FIELD, dataset)

    @model_validator(mode="after")
    def _has_no_other_field(self) -> TrackingParams:
        if {"{", "}"} & set(self.registered_model.replace(DATASET_FIELD, "")):
            raise ValueError(f"registered_model: {DATASET_FIELD} is all that may stand in braces")
        return self


class MonitorParams(Section):
    """What counts as drift of new cases: a distance that is both large and more than chance."""

    max_distance: Annotated[float, Field(gt=0)] = 0.4  # Wasserstein, in standard deviations of the reference's patches
    max_chance: Share = 0.02  # of a false alarm, over all features
    min_patches: Count = 5  # cases of fewer aren't judged


class OptimizerParams(Section):
    """Keras optimizer and its first learning rate; further keys go to the optimizer's constructor."""

    name: Literal["adagrad", "sgd", "adam", "adamw"]
    learning_rate: Annotated[float, Field(gt=0)]
    options: dict[str, float | bool] = {}


class ScheduleParams(Section):
    """How the learning rate changes.

    `inverse_time` is rate / (1 + decay * step), as in Keras before 2.3; `linear` falls to 0 over the recipe's epochs;
    `cosine` rises over `warmup_epochs`, then falls to 0 on half a cosine (Loshchilov & Hutter 2017); `plateau` is
    multiplied by `factor` whenever validation has not become better for `patience` epochs, but never below `floor`.
    """

    name: Literal["constant", "inverse_time", "linear", "cosine", "plateau"] = "constant"
    decay: Annotated[float, Field(ge=0)] = 0.0
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.2
    patience: Count = 5
    floor: Annotated[float, Field(ge=0)] = 1e-7


class AugmentationParams(Section):
    """Ranges of the random changes of training patches; each patch draws its own."""

    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0  # degrees, either way
    zoom: Annotated[float, Field(ge=0, lt=1)] = 0.0  # share, each axis by itself
    shift: Annotated[float, Field(ge=0, lt=1)] = 0.0  # share of the side, each axis by itself
    shear: Annotated[float, Field(ge=0, lt=1)] = 0.0  # tangent of the shear angle
    horizontal_flip: bool = False
    vertical_flip: bool = False
    quarter_turns: bool = False  # with both flips: the eight symmetries of the square, D4
    fill: Literal["nearest", "constant", "reflect", "wrap"] = "nearest"
    stain: Annotated[float, Field(ge=0, lt=1)] = 0.0  # share by which the amount of each stain varies


class ClassifierParams(Section):
    """A scikit-learn classifier on frozen features; which layer they come from, and `c`, validation decides."""

    name: Literal["logistic_regression", "linear_svm", "lda"] = "logistic_regression"
    layers: tuple[str, ...] = ()  # candidates; those of the backbone's own list where empty
    c: Annotated[tuple[float, ...], Field(min_length=1)] = (0.001, 0.01, 0.1, 1.0)  # inverse regularisation


class RangeParams(Section):
    """Where a hyper-parameter search looks for one value: between `low` and `high`, or among `choices`."""

    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[int | float | str | bool, ...] = ()

    @model_validator(mode="after")
    def _ends_or_choices(self) -> RangeParams:
        ends = self.low is not None and self.high is not None
        if ends == bool(self.choices):
            raise ValueError("a range is either `low` and `high`, or `choices`")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(f"low {self.low:g} must be below high {self.high:g}")
        if self.log and not (self.low or 0) > 0:
            raise ValueError("a range with `log: true` needs a low above 0")
        return self


class PublishedParams(Section):
    """What others report of a recipe: metrics by name, on which data set, and how that was split."""

    dataset: Name
    split: Literal["by image", "by case"]
    metrics: dict[Literal["accuracy", "balanced_accuracy", "f1", "roc_auc", "sensitivity", "specificity"], Share]
    source: str = ""


class RecipeParams(Section):
    """An architecture with everything that trains it.

    Attributes:
        architecture: the recipe's own name where it is left out.
        model: what the architecture's builder takes; `image_size` comes from the data set where it is left out.
        weights: `random`, `imagenet`, the path of a weights file, or `models:/name@alias` for one of our own.
        imbalance: what makes up for the rarer class.
        keep: which weights are the result: of the last epoch, of the epoch with the best validation AUC, or
            exponentially averaged over steps with `average_momentum`.
        early_stopping: epochs without a better validation AUC after which the training ends.
        test_time: `d4` averages the logits of a patch's eight symmetries.
        classifier: instead of gradient descent, fitted to frozen features (architecture `features`).
    """

    architecture: Name | None = None
    model: dict[str, int | float | str | bool] = {}
    weights: str = "random"
    optimizer: OptimizerParams | None = None
    schedule: ScheduleParams = ScheduleParams()
    augmentation: AugmentationParams = AugmentationParams()
    epochs: Count = 1
    batch_size: Count = 32
    imbalance: Literal["none", "class_weight", "balanced_batches", "focal"] = "none"
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    keep: Literal["last", "best", "average"] = "last"
    average_momentum: Annotated[float, Field(gt=0, lt=1)] = 0.999
    early_stopping: Count | None = None
    test_time: Literal["none", "d4"] = "none"
    classifier: ClassifierParams | None = None

    @model_validator(mode="after")
    def _trained_somehow(self) -> RecipeParams:
        if (self.optimizer is None) == (self.classifier is None):
            raise ValueError("a recipe needs either an optimizer or a classifier")
        return self


def _variant(name: str) -> str:
    """A variant's name, if it is one."""
    parse_variant(name)
    return name


class StudiesParams(Section):
    """Variants of the main run, none unless asked for.

    Attributes:
        variants: `fold-0` tests another fold, `seed-1` is what else `seed` could have been, `scheme-random` what else
            `split.scheme` could have been, `size-25` trains on so many cases: a point of a learning curve.
        summaries: which kinds of them to sum up; DVC can't tell that there are none of a kind.
    """

    variants: tuple[Annotated[str, AfterValidator(_variant)], ...] = ()
    summaries: tuple[Study, ...] = ()

    def listed(self, study: str) -> tuple[VariantValue, ...]:
        """The folds, seeds, schemes or sizes among the variants."""
        parsed = map(parse_variant, self.variants)
        return tuple(value for of, value in parsed if of == study)

    @model_validator(mode="after")
    def _listed_once(self) -> StudiesParams:
        for name, listed in self:
            if len(set(listed)) < len(listed):
                raise ValueError(f"{name} lists {next(each for each in listed if listed.count(each) > 1)} twice")
        for name in self.summaries:
            if not self.listed(name):
                raise ValueError(f"summaries lists {name}, but variants lists no {name}")
        return self


class Params(Section):
    """The whole of `params.yaml`."""

    datasets: Annotated[tuple[Name, ...], Field(min_length=1)]
    architectures: Annotated[tuple[Name, ...], Field(min_length=1)]
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 42
    synthetic: SyntheticParams = SyntheticParams()
    ingest: IngestParams = IngestParams()
    split: SplitParams = SplitParams()
    quick: QuickParams | None = None
    train: TrainParams = TrainParams()
    evaluate: EvaluateParams = EvaluateParams()
    compare: CompareParams = CompareParams()
    promotion: PromotionParams = PromotionParams()
    tracking: TrackingParams = TrackingParams()
    monitor: MonitorParams = MonitorParams()
    studies: StudiesParams = StudiesParams()
    flow: FlowParams = FlowParams()
    recipes: dict[Name, RecipeParams]
    search: dict[Name, dict[str, RangeParams]] = {}  # by recipe, then by dotted key such as `optimizer.learning_rate`
    published: dict[Name, PublishedParams] = {}  # by recipe: results to print beside ours
    sources: dict[Name, DatasetParams]  # the data sets' own blocks: `idc: {…}` stands at the file's top level

    def dataset(self, name: str) -> DatasetParams:
        """The block of one data set.

        Raises:
            ParamsError: there is none.
        """
        if name not in self.sources:
            raise ParamsError(_unknown("data set", name, self.sources))
        return self.sources[name]

    def case_reading(self, dataset: str) -> Reading | None:
        """What counts as one case of a data set; None where its names leave no choice."""
        block = self.sources.get(dataset, DatasetParams())
        return None if block.manifest is not None else block.case or default_reading(dataset)

    def recipe(self, name: str) -> RecipeParams:
        """The recipe called `name`.

        Raises:
            ParamsError: there is none.
        """
        if name not in self.recipes:
            raise ParamsError(_unknown("architecture", name, self.recipes))
        return self.recipes[name]

    def weights(self, name: str) -> str:
        """What the network of the recipe called `name` starts from, under the caps of `quick`."""
        return (self.quick.weights if self.quick else None) or self.recipe(name).weights


def read_params(path: Path, text: str | None = None) -> Params:
    """Read and check `params.yaml`.

    Args:
        path: of the file.
        text: its content, where that was read before.

    Raises:
        ParamsError: the file is missing, isn't YAML, or has an unknown key or an impossible value.
    """
    try:
        content = read_yaml(path) if text is None else parse_yaml(text)
    except FileNotFoundError:
        raise ParamsError(f"{path} is missing: run from a histopipe checkout") from None
    except (yaml.YAMLError, UnicodeError) as problem:
        raise ParamsError(f"{path} is not valid YAML: {one_line(problem)}") from None
    if not isinstance(content, dict):
        raise ParamsError(f"{path} holds no keys: restore it from git")
    return parse_params(content, str(path.name))


def parse_params(content: dict[str, Any], origin: str = "params.yaml") -> Params:
    """Check the content of `params.yaml`; `origin` names it in messages.

    Raises:
        ParamsError: an unknown key or an impossible value.
    """
    if moved := moved_keys(content):
        raise ParamsError("\n".join(f"{origin}: {line}" for line in moved))
    sections = {key: value for key, value in content.items() if key in Params.model_fields and key != "sources"}
    blocks = {key: value for key, value in content.items() if key not in sections}
    listed = content.get("datasets", [])
    if not isinstance(listed, list | tuple):
        raise ParamsError(f"{origin}: datasets: a list of names is wanted, such as [idc] (got {listed!r})")
    for key, value in blocks.items():
        if not _is_dataset_block(key, value, listed):
            raise ParamsError(f"{origin}: {_unknown('key', key, [*_section_names(), *KNOWN_DATASETS])}")
    try:
        params = Params(**sections, sources=blocks)
    except ValidationError as problems:
        raise ParamsError(f"{origin}: {_first_problem(problems)}") from None
    _check_names(params, origin)
    _require_recipes({"search": params.search, "published": params.published}, params, origin)
    folds = [int(value) for value in params.studies.listed("folds")]
    require_folds(params, folds, f"{origin}: studies.variants")
    return params


def require_folds(params: Params, numbers: Sequence[int], origin: str) -> None:
    """Check that `split.folds` parts have folds of these numbers; `origin` says who names them.

    Raises:
        ParamsError: one of them is too high.
    """
    highest = params.split.folds - 1
    for number in numbers:
        if number > highest:
            raise ParamsError(f"{origin}: there is no fold {number}: split.folds gives 0 to {highest}")


def require_name(what: str, name: str) -> None:
    """Check that `name` could be a `what`'s name at all, before it becomes part of a path.

    Raises:
        ParamsError: it could not.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise ParamsError(f"{name!r} is no {what} name: write lower-case letters, digits and _")


def _section_names() -> list[str]:
    return [name for name in Params.model_fields if name != "sources"]


def _is_dataset_block(key: object, value: Any, listed: Sequence[object]) -> bool:
    named = key in listed or key in KNOWN_DATASETS
    return named or (isinstance(value, dict) and "manifest" in value)


def _check_names(params: Params, origin: str) -> None:
    if len(params.datasets) > 1 and DATASET_FIELD not in params.tracking.registered_model:
        raise ParamsError(
            f"{origin}: tracking.registered_model: {', '.join(params.datasets)} would share one registered model: "
            f"write {DATASET_FIELD} into its name"
        )
    for name in params.datasets:
        if name not in params.sources:
            raise ParamsError(f"{origin}: {_unknown('data set', name, params.sources)}")
        if name not in KNOWN_DATASETS and params.sources[name].manifest is None:
            raise ParamsError(
                f"{origin}: {name}.manifest is missing: a data set of your own needs `manifest: FILE.csv`"
            )
    for name, block in params.sources.items():
        if block.magnification is not None and not _is_magnified(name, block):
            raise ParamsError(f"{origin}: {name}.magnification: {name} has no magnifications: remove the key")
        if block.case is not None and (block.manifest is not None or default_reading(name) is None):
            raise ParamsError(f"{origin}: {name}.case: {name} has one reading of its cases only: remove the key")
    for name in RESERVED:
        if name in params.recipes:
            raise ParamsError(f"{origin}: recipes.{name}: the comparison has a row of this name: rename the recipe")
    for name in params.architectures:
        if name not in params.recipes:
            raise ParamsError(f"{origin}: {_unknown('architecture', name, params.recipes)}; add it under `recipes`")


def _require_recipes(blocks: Mapping[str, Mapping[str, object]], params: Params, origin: str) -> None:
    """Check that blocks keyed by recipe name recipes that there are."""
    for section, block in blocks.items():
        for name in block:
            if name not in params.recipes:
                raise ParamsError(f"{origin}: {section}: {_unknown('recipe', name, params.recipes)}")


def _is_magnified(name: str, block: DatasetParams) -> bool:
    return name in MAGNIFIED_DATASETS and block.manifest is None


def _unknown(what: str, name: object, valid: Any) -> str:
    return f"unknown {what} {str(name)!r}; {did_you_mean(str(name), sorted(valid), likeness=0.5)}"


def _first_problem(problems: ValidationError) -> str:
    problem = problems.errors()[0]
    path = [str(step) for step in problem["loc"] if step != "sources"]
    if problem["type"] == "extra_forbidden":
        return _unknown("key", ".".join(path), _neighbours(problem["loc"]))
    value = f" (got {problem['input']!r})" if not isinstance(problem["input"], dict) else ""
    return f"{'.'.join(path)}: {problem['msg'].removeprefix('Value error, ')}{value}"


def _neighbours(location: tuple[int | str, ...]) -> list[str]:
    """Valid keys beside the unknown one at `location`, written with their whole path."""
    section: type[BaseModel] = Params
    for step in location[:-1]:
        field = section.model_fields.get(str(step))  # None for a name of the user's own, as in `recipes.NAME`
        section = (_innermost(field.annotation) if field else None) or section
    shown = [str(step) for step in location[:-1] if step != "sources"]
    return [".".join([*shown, name]) for name in section.model_fields]


def _innermost(annotation: Any) -> type[BaseModel] | None:
    """The model class that an annotation such as `dict[str, RecipeParams]` or `QuickParams | None` is about."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_innermost(argument) for argument in getattr(annotation, "__args__", ()))
    return next((model for model in found if model), None)
