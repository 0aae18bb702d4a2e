"""`params.yaml` as frozen, typed objects; for a misspelt key the error names the nearest valid one."""

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
    """Convert a case id from YAML, where 8863 is a number and `no` a truth value, to a name."""
    if isinstance(value, bool) or value is None:
        raise ValueError(f"YAML reads this as {str(value).lower()}, not as a name: put the case id in quotes")
    return normal_id(str(value))


CaseId = Annotated[str, BeforeValidator(_case_id)]
NAME_PATTERN = r"^[a-z][a-z0-9_]*$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
MAX_MEMBERS = 1_000_000  # of an archive; the largest of Kaggle's here, IDC, has 555,048 files with its second copy
RESERVED = ("baseline", "ensemble")  # rows of a comparison that no recipe trains
DATASET_FIELD = "{dataset}"  # in `tracking.registered_model`


class Section(BaseModel):
    """A block of `params.yaml`: no unknown keys, no change after reading."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DatasetParams(Section):
    """The source of a data set, its layout, and the cases to leave out."""

    source: str = "synthetic"
    exclude_cases: tuple[CaseId, ...] = ()
    manifest: str | None = None
    patch_size: tuple[Count, Count] | None = None  # height and width of a stored patch, in pixels
    checksum: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")] | None = None
    complete: bool = False
    magnification: Literal[40, 100, 200, 400, "all"] | None = None  # only where a data set has several
    case: Reading | None = None  # only where names leave a choice; None: the data set's default
    mpp: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None  # micrometres per pixel of a stored patch


class SyntheticParams(Section):
    """The size of the synthetic data, for each data set whose source is `synthetic`."""

    cases: Count = 60
    patches: Count = 6000
    nested_copy: bool = True
    breakhis_patches: Count = 360  # at most: a field of 700x460 takes half a megabyte

    def patches_of(self, dataset: str) -> int:
        """Return the number of patches to draw for a data set."""
        return min(self.patches, self.breakhis_patches) if dataset == "breakhis" else self.patches


class IngestParams(Section):
    """Limits of an archive: the share of unusable members, and the number of members."""

    max_bad: Fraction = 0.01  # share of the members that may be unusable, 0 to 1
    max_members: Count = MAX_MEMBERS  # files, folders and links; Kaggle's IDC has 555,048


class SplitParams(Section):
    """The division of cases; the three shares sum to 1."""

    scheme: Scheme = "grouped"
    train: Share = 0.70
    validation: Share = 0.15
    test: Share = 0.15
    folds: Annotated[int, Field(ge=3)] = 5
    unlisted: Literal["train", "drop"] = "drop"  # what happens to cases in no published list

    @property
    def adds_unlisted(self) -> bool:
        """Return whether cases in no published list train, which deviates from the published protocol."""
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
    """Settings of every training, whatever the recipe."""

    deterministic: bool = False
    parallel: Literal["auto"] | Count = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 (mixed) on a GPU that has it
    devices: Literal["one", "all"] = "one"  # all: one training over every GPU of the machine


Hours = Annotated[float, Field(gt=0, le=24 * 365)]


class TimeoutParams(Section):
    """Hours after which a flow ends a stage that seems to hang; variants and trials count as trainings."""

    locate: Hours = 6.0  # a large archive is read for its digest
    fetch: Hours = 24.0  # also transfers from and to DVC's remote
    ingest: Hours = 12.0
    split: Hours = 1.0
    weights: Hours = 2.0
    train: Hours = 72.0
    evaluate: Hours = 24.0
    compare: Hours = 6.0  # also summaries of studies and searches
    promote: Hours = 1.0
    predict: Hours = 72.0


class FlowParams(Section):
    """The place where a flow's tasks run: threads of its own process, or the workers of a Dask scheduler."""

    task_runner: Literal["threads", "dask"] = "threads"
    scheduler: str | None = None  # such as tcp://HOST:8786
    timeouts: TimeoutParams = TimeoutParams()
    part_shards: Count = 16  # least shards of 32 MiB per worker: an ingest of fewer than twice as many runs locally

    @model_validator(mode="after")
    def _has_address(self) -> FlowParams:
        if self.task_runner == "dask" and not self.scheduler:
            raise ValueError("task_runner: dask needs the scheduler's address: scheduler: tcp://HOST:8786")
        return self


class ThresholdRule(Section):
    """The rule by which validation chooses the threshold.

    It is written as `youden`, `f1`, `sensitivity>=0.95`, `sensitivity>=0.95@0.9`, or `{cost: {fn: 5, fp: 1}}`: the
    costs of a missed positive and of a false alarm. `@0.9` is the confidence with which new cases reach the
    sensitivity; without it the validation cases reach it, and new ones fall short about half of the time.
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
    """Parse the rule's fields from their form in `params.yaml`."""
    if written in ("youden", "f1"):
        return {"name": written}
    if isinstance(written, str) and (
        rule := re.fullmatch(r"sensitivity *>= *([01]?\.?\d+)( *@ *(\d?\.?\d+))?", written)
    ):
        return {"name": "sensitivity", "at_least": float(rule[1]), "confidence": float(rule[3]) if rule[2] else None}
    cost = written.get("cost") if isinstance(written, dict) and len(written) == 1 else None
    if isinstance(cost, dict) and set(cost) == {"fn", "fp"}:
        return {"name": "cost", **cost}
    if isinstance(written, ThresholdRule):
        return written
    raise ValueError("write youden, f1, sensitivity>=0.95, sensitivity>=0.95@0.9 or {cost: {fn: 5, fp: 1}}")


class EvaluateParams(Section):
    """Settings of evaluations."""

    threshold: Annotated[ThresholdRule, BeforeValidator(_threshold_rule)] = ThresholdRule(name="youden")
    resamples: Annotated[int, Field(ge=100)] = 2000
    symmetries: bool = False  # whether to evaluate each network a second time, averaged over the eight symmetries
    slides: Literal["all"] | Count = "all"  # the number of test cases that are reassembled from their patches
    slide_side: Count | None = 1200  # the most pixels of a whole slide's longer side; None: every pixel of the slide


class CompareParams(Section):
    """Optional rows of the comparison."""

    neighbourhood: bool = False


class PromotionParams(Section):
    """The requirements on a new champion, measured on test cases that it never saw."""

    margin: Annotated[float, Field(ge=0, lt=1)] = 0.02  # ROC AUC by which a model may be worse than the champion
    total_margin: Annotated[float, Field(ge=0, lt=1)] | None = None  # the same for the anchor; None: 2.5 times margin
    risk: Share = 0.05  # of promoting a model that is worse by more, over all looks at the same test cases
    looks: Count = 365  # looks over which the risk is divided
    min_roc_auc: Fraction = 0.5  # each limit is compared with the end of the 95 % interval on its side
    min_balanced_accuracy: Fraction = 0.5  # this and the following: at the locked threshold
    min_specificity: Fraction = 0.2
    min_sensitivity: Fraction = 0.4
    max_calibration_error: Fraction = 0.2
    min_cases: Count = 8
    unknown_weights: Literal["refuse", "allow"] = "refuse"  # a model whose initial weights saw unknown cases

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
    """Names in MLflow; its address is in the environment variable `MLFLOW_TRACKING_URI`."""

    registered_model: Annotated[str, Field(pattern=r"^[\w.{}-]+( [\w.{}-]+)*$", max_length=200)] = "histopipe-{dataset}"

    def model_of(self, dataset: str) -> str:
        """Return the name under which models of a data set are registered."""
        return self.registered_model.replace(DATASET_FIELD, dataset)

    @model_validator(mode="after")
    def _has_no_other_field(self) -> TrackingParams:
        if {"{", "}"} & set(self.registered_model.replace(DATASET_FIELD, "")):
            raise ValueError(f"registered_model: only {DATASET_FIELD} may be in braces")
        return self


class MonitorParams(Section):
    """Limits of drift: new cases have drifted if a distance is both large and unlikely by chance."""

    max_distance: Annotated[float, Field(gt=0)] = 0.4  # Wasserstein, in standard deviations of the reference's patches
    max_chance: Share = 0.02  # the probability of a false alarm, over all features
    min_patches: Count = 5  # cases of fewer patches aren't judged


class OptimizerParams(Section):
    """A Keras optimizer and its first learning rate; `options` go to the optimizer's constructor."""

    name: Literal["adagrad", "sgd", "adam", "adamw"]
    learning_rate: Annotated[float, Field(gt=0)]
    options: dict[str, float | bool] = {}


class ScheduleParams(Section):
    """The schedule of the learning rate.

    `inverse_time` is rate / (1 + decay * step), as in Keras before 2.3; `linear` falls to 0 over the recipe's epochs;
    `cosine` rises over `warmup_epochs`, then falls to 0 on half a cosine (Loshchilov & Hutter 2017); `plateau`
    multiplies the rate by `factor` whenever validation ROC AUC hasn't improved for `patience` epochs, down to `floor`.
    """

    name: Literal["constant", "inverse_time", "linear", "cosine", "plateau"] = "constant"
    decay: Annotated[float, Field(ge=0)] = 0.0
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.2
    patience: Count = 5
    floor: Annotated[float, Field(ge=0)] = 1e-7


class AugmentationParams(Section):
    """Ranges of the random changes of training patches; each patch gets its own random values."""

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
    """A scikit-learn classifier on frozen features; validation chooses their layer and `c`."""

    name: Literal["logistic_regression", "linear_svm", "lda"] = "logistic_regression"
    layers: tuple[str, ...] = ()  # candidates; the backbone's own list where empty
    c: Annotated[tuple[float, ...], Field(min_length=1)] = (0.001, 0.01, 0.1, 1.0)  # inverse regularisation


class RangeParams(Section):
    """The range of one hyper-parameter in a search: from `low` to `high`, or among `choices`."""

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
    """Published metrics of a recipe by name, with the data set and its split."""

    dataset: Name
    split: Literal["by image", "by case"]
    metrics: dict[Literal["accuracy", "balanced_accuracy", "f1", "roc_auc", "sensitivity", "specificity"], Share]
    source: str = ""


class RecipeParams(Section):
    """A recipe: an architecture with everything that trains it.

    Attributes:
        architecture: the name of the architecture; by default, that of the recipe.
        model: arguments of the architecture's builder; by default, `image_size` comes from the data set.
        weights: `random`, `imagenet`, the path of a weights file, or `models:/name@alias` for a registered model.
        imbalance: the method that compensates for the rarer class.
        keep: the weights to keep: those of the last epoch, of the epoch with the best validation AUC, or an exponential
            average over steps with `average_momentum`.
        early_stopping: the number of epochs without a better validation AUC after which the training ends.
        test_time: `d4` averages the logits of a patch's eight symmetries.
        classifier: a classifier that is fitted to frozen features instead of gradient descent (architecture
            `features`).
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
    """Return a variant's name after checking it."""
    parse_variant(name)
    return name


class StudiesParams(Section):
    """Variants of the main run; none by default.

    Attributes:
        variants: `fold-0` tests another fold, `seed-1` is another value of `seed`, `scheme-random` another value of
            `split.scheme`, and `size-25` trains on 25 cases: a point of a learning curve.
        summaries: the kinds of variants to summarise; DVC can't see which kinds there are.
    """

    variants: tuple[Annotated[str, AfterValidator(_variant)], ...] = ()
    summaries: tuple[Study, ...] = ()

    def listed(self, study: str) -> tuple[VariantValue, ...]:
        """Return the values of one study among the variants, such as the fold numbers of `folds`."""
        parsed = map(parse_variant, self.variants)
        return tuple(value for kind, value in parsed if kind == study)

    @model_validator(mode="after")
    def _listed_once(self) -> StudiesParams:
        for name, listed in self:
            if len(set(listed)) < len(listed):
                raise ValueError(f"{name} lists {next(item for item in listed if listed.count(item) > 1)} twice")
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
    published: dict[Name, PublishedParams] = {}  # by recipe: results to print next to ours
    sources: dict[Name, DatasetParams]  # the data sets' own blocks: `idc: {…}` at the file's top level

    def dataset(self, name: str) -> DatasetParams:
        """Return the block of one data set.

        Raises:
            ParamsError: there is no such block.
        """
        if name not in self.sources:
            raise ParamsError(_unknown("data set", name, self.sources))
        return self.sources[name]

    def case_reading(self, dataset: str) -> Reading | None:
        """Return the reading of a data set's case ids; None where its names leave no choice."""
        block = self.sources.get(dataset, DatasetParams())
        return None if block.manifest is not None else block.case or default_reading(dataset)

    def recipe(self, name: str) -> RecipeParams:
        """Return the recipe called `name`.

        Raises:
            ParamsError: there is no such recipe.
        """
        if name not in self.recipes:
            raise ParamsError(_unknown("architecture", name, self.recipes))
        return self.recipes[name]

    def weights(self, name: str) -> str:
        """Return a recipe's `weights`, such as `random` or the path of a file; `quick.weights` takes precedence."""
        return (self.quick.weights if self.quick else None) or self.recipe(name).weights


def read_params(path: Path, text: str | None = None) -> Params:
    """Read and check `params.yaml`.

    Args:
        path: the path of the file.
        text: the content of the file, if it has been read already.

    Returns:
        The parameters, as frozen objects.

    Raises:
        ParamsError: the file is missing, isn't YAML, or has an unknown key or an impossible value.

    Example:
        >>> params = read_params(Path("params.yaml"))
        >>> params.recipe("cancernet").epochs
        40
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
        raise ParamsError(f"{origin}: datasets: write a list of names, such as [idc] (got {listed!r})")
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
    """Check that these fold numbers exist under `split.folds`; `origin` starts the message.

    Raises:
        ParamsError: a fold number is `split.folds` or higher.
    """
    highest = params.split.folds - 1
    for number in numbers:
        if number > highest:
            raise ParamsError(f"{origin}: there is no fold {number}: split.folds gives 0 to {highest}")


def require_name(kind: str, name: str) -> None:
    """Check that a name may become part of a path.

    Args:
        kind: what it names, for the message, such as `data set`.
        name: the name.

    Raises:
        ParamsError: the name isn't made of lower-case letters, digits and _, or doesn't begin with a letter.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise ParamsError(f"{name!r} is no {kind} name: write lower-case letters, digits and _")


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
            raise ParamsError(f"{origin}: {name}.case: {name} has only one reading of its cases: remove the key")
    for name in RESERVED:
        if name in params.recipes:
            raise ParamsError(f"{origin}: recipes.{name}: the comparison has a row with this name: rename the recipe")
    for name in params.architectures:
        if name not in params.recipes:
            raise ParamsError(f"{origin}: {_unknown('architecture', name, params.recipes)}; add it under `recipes`")


def _require_recipes(blocks: Mapping[str, Mapping[str, object]], params: Params, origin: str) -> None:
    """Check that blocks keyed by recipe name existing recipes."""
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
    """List the valid keys next to the unknown one at `location`, each with its whole path."""
    section: type[BaseModel] = Params
    for step in location[:-1]:
        field = section.model_fields.get(str(step))  # None for a name of the user's own, as in `recipes.NAME`
        section = (_innermost(field.annotation) if field else None) or section
    shown = [str(step) for step in location[:-1] if step != "sources"]
    return [".".join([*shown, name]) for name in section.model_fields]


def _innermost(annotation: Any) -> type[BaseModel] | None:
    """Return the model class inside an annotation such as `dict[str, RecipeParams]` or `QuickParams | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    models = (_innermost(argument) for argument in getattr(annotation, "__args__", ()))
    return next((model for model in models if model), None)
