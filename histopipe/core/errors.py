"""Errors that a user can mend: one clear line each, naming the file or key and the remedy."""

from collections.abc import Iterable

from histopipe.core.names import printable


def one_line(reason: object, limit: int | None = None) -> str:
    """Return what a library complains of as one line, to stand within a message of ours.

    Args:
        reason: an exception, or its text.
        limit: letters after which the line is cut.

    Returns:
        The text with single spaces for line breaks; for an exception without any, the name of its class.

    Example:
        >>> one_line(ValueError("bad shape:\n  (3, 4)"))
        'bad shape: (3, 4)'
    """
    line = " ".join(str(reason).split())[:limit]
    return line or (type(reason).__name__ if isinstance(reason, BaseException) else "")


def did_you_mean(name: str, known: Iterable[str], otherwise: str | None = None, likeness: float = 0.6) -> str:
    """Return the hint that ends a message about an unknown name: the nearest of those that there are.

    Args:
        name: as it was written.
        known: the names that there are, in the order in which they are listed.
        otherwise: what to say where none is near; all known ones by default.
        likeness: 0 to 1, from which a name is near (`difflib.SequenceMatcher.ratio`).

    Example:
        >>> did_you_mean("cancernett", ["cancernet", "resnet"])
        "did you mean 'cancernet'?"
    """
    from difflib import get_close_matches

    names = list(known)
    if nearest := get_close_matches(name, names, n=1, cutoff=likeness):
        return f"did you mean {nearest[0]!r}?"
    return f"known: {', '.join(names)}" if otherwise is None else otherwise


class HistopipeError(Exception):
    """Bad input or a missing condition; the command prints its message and exits with code 2.

    Bad input stays bad however often it is tried, so what raises this is not retried (`UnreachableError` is).
    """


class ParamsError(HistopipeError):
    """`params.yaml` says something that can't be meant."""


class ChangedInputError(HistopipeError):
    """What a stage reads changed while it ran, so that its result would be recorded as made from something else."""


class SourceError(HistopipeError):
    """The raw archive can't be found, reached or copied."""


class UnreachableError(SourceError):
    """A source that may be there but can't be asked now; unlike bad input, worth trying again later.

    Attributes:
        what: what happened, without the remedy.
    """

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}: {remedy}")
        self.what = what


class ArchiveError(HistopipeError):
    """An archive can't be read as one, or holds too little that can be used."""


class StoreError(HistopipeError):
    """The packed patch store is missing or doesn't fit its index."""


class SplitError(HistopipeError):
    """Cases can't be divided as asked, or a split file contradicts the data."""


class ArchitectureError(HistopipeError):
    """No such architecture, or it can't be built with the values of its recipe."""


class WeightsError(HistopipeError):
    """The weights that a recipe starts from can't be had, or don't fit its network."""


class TrainingError(HistopipeError):
    """A training that can't start or can't go on."""


class SearchError(HistopipeError):
    """A hyper-parameter search that can't go on or has nothing to show."""


class TrackingError(HistopipeError):
    """MLflow can't keep the run as it stands."""


class TrackingAwayError(TrackingError):
    """MLflow can't be asked now, or breaks off; unlike bad input, worth trying again later."""


class InferenceError(HistopipeError):
    """A network can't be compiled for this machine as asked."""


class ScoringError(HistopipeError):
    """No such model, or nothing that it could grade."""


class MonitoringError(HistopipeError):
    """New patches can't be compared with what their model was made from."""


class PseudonymError(HistopipeError):
    """Case ids can't be replaced as asked: the key is missing or too short, or the table would be given away."""


class ExportError(HistopipeError):
    """No such model, or no file of it that would do."""


class ServingError(HistopipeError):
    """A server that may not or can't start as asked."""


class EvaluationError(HistopipeError):
    """Predictions can't be graded."""


class OutputError(HistopipeError):
    """Results can't be written where they are asked for: something is there, or they would be read as input."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))  # names of a user's files are in it, which may hold line breaks


class PromotionError(HistopipeError):
    """No model can be judged, or there is nothing to go back to."""


class BusyError(Exception):
    """Another process is running the same stage; worth trying again later."""
