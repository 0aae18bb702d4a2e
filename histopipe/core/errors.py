"""Errors that a user can fix: one clear line each, which names the file or key and the remedy."""

from collections.abc import Iterable

from histopipe.core.names import escape_control_characters


def one_line(reason: object, limit: int | None = None) -> str:
    """Return a library's error message as one line, for use within a message of histopipe.

    Args:
        reason: an exception, or its text.
        limit: number of characters after which the line is cut.

    Returns:
        The text with single spaces for line breaks; for an exception without any, the name of its class.

    Example:
        >>> one_line(ValueError("bad shape:\n  (3, 4)"))
        'bad shape: (3, 4)'
    """
    line = " ".join(str(reason).split())[:limit]
    return line or (type(reason).__name__ if isinstance(reason, BaseException) else "")


def did_you_mean(name: str, valid: Iterable[str], otherwise: str | None = None, likeness: float = 0.6) -> str:
    """Return the hint that ends a message about an unknown name: the nearest valid one.

    Args:
        name: the name as it was written.
        valid: the valid names, in the order in which they are listed.
        otherwise: the hint where no name is near; by default, a list of all valid names.
        likeness: the similarity, 0 to 1, from which a name is near (`difflib.SequenceMatcher.ratio`).

    Returns:
        The hint, without a full stop.

    Example:
        >>> did_you_mean("cancernett", ["cancernet", "resnet"])
        "did you mean 'cancernet'?"
    """
    from difflib import get_close_matches

    names = list(valid)
    if nearest := get_close_matches(name, names, n=1, cutoff=likeness):
        return f"did you mean {nearest[0]!r}?"
    return f"known: {', '.join(names)}" if otherwise is None else otherwise


class HistopipeError(Exception):
    """Bad input or a missing requirement; the command prints its message and exits with code 2.

    Bad input stays bad, so tasks don't retry after this error (except after `UnreachableError`).
    """


class ParamsError(HistopipeError):
    """`params.yaml` has an unknown key or an impossible value, or is missing."""


class ChangedInputError(HistopipeError):
    """Inputs of a stage changed while it ran, so that its result would be recorded as made from other inputs."""


class SourceError(HistopipeError):
    """A source can't be found, reached or copied."""


class UnreachableError(SourceError):
    """A source that may exist but can't be reached now; unlike bad input, it is worth trying again later.

    Attributes:
        problem: the problem, without the remedy.
    """

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}: {remedy}")
        self.problem = problem


class ArchiveError(HistopipeError):
    """An archive can't be read, or too few of its members can be used."""


class StoreError(HistopipeError):
    """The packed patch store is missing or doesn't fit its index."""


class SplitError(HistopipeError):
    """Cases can't be divided as `params.yaml` asks, or a split file contradicts the data."""


class ArchitectureError(HistopipeError):
    """An architecture doesn't exist, or can't be built with the values of its recipe."""


class WeightsError(HistopipeError):
    """The weights that a recipe starts from can't be loaded, or don't fit its network."""


class TrainingError(HistopipeError):
    """A training can't start or can't continue."""


class SearchError(HistopipeError):
    """A hyper-parameter search can't continue, or has no results."""


class TrackingError(HistopipeError):
    """MLflow can't record the run as it is."""


class TrackingUnreachableError(TrackingError):
    """MLflow can't be reached now, or the connection broke; unlike bad input, it is worth trying again later."""


class InferenceError(HistopipeError):
    """A network can't be compiled for this machine."""


class PredictionError(HistopipeError):
    """A model to predict with doesn't exist, or there are no patches to predict."""


class MonitoringError(HistopipeError):
    """New patches can't be compared with their model's reference."""


class PseudonymError(HistopipeError):
    """Case ids can't be replaced: the key is missing or too short, or the table would be disclosed with the results."""


class ExportError(HistopipeError):
    """A model to export doesn't exist, or its exported file isn't accurate enough."""


class ServiceError(HistopipeError):
    """The service may not or can't start with these options."""


class EvaluationError(HistopipeError):
    """Predictions can't be evaluated."""


class OutputError(HistopipeError):
    """Results can't be written to their path: something is there, or the command reads from there."""

    def __init__(self, message: str) -> None:
        super().__init__(
            escape_control_characters(message)
        )  # it names files of a user, whose names may contain line breaks


class PromotionError(HistopipeError):
    """There is no model to judge, or no earlier champion to go back to."""


class BusyError(Exception):
    """Another process is running the same stage; it is worth trying again later."""
