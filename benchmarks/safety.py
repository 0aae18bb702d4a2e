"""The cost of safety: the share of every stage that goes into validation, hashing and logging.

Every stage runs once, in a process of its own, by its own command, with a stopwatch around the functions below; where
one calls another the outer one counts. Ingest runs in one process instead of one per core, so that all it does is seen.
Sizes are those of the published archive; cancernet trains for one epoch on 20,000 of its patches, which makes what a
training does once look more expensive than it is, and is then evaluated on the whole test split.

`locate` is run twice: the first time it reads the archive for the digest that it is there for (`first_locate`, which no
limit is set to); afterwards it only checks whether the file is the same.

`ratio` is the limit, a tenth of a stage, over the largest share.

    python -m benchmarks.safety
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import click
import yaml

from benchmarks.checkouts import ROOT, environment
from benchmarks.ingest import PUBLISHED_PATCHES, full_size_archive
from benchmarks.measuring import report, run_side
from benchmarks.recipes import shipped_params

LIMIT = 0.1  # of a stage
QUICK = {"max_epochs": 1, "max_patches": 20_000}

STAGES = {
    "locate": ("idc",),
    "fetch": ("idc",),
    "ingest": ("idc",),
    "split": ("idc",),
    "weights": ("cancernet",),
    "train": ("idc", "cancernet"),
    "evaluate": ("idc", "cancernet"),
    "compare": ("idc",),
    "promote": ("idc",),
}
LOGGING_STAGES = frozenset({"train", "evaluate", "promote"})

WATCHED = {  # functions by module
    "validation": {
        "histopipe.ingest.archives.reading": ("require_usable_member",),
        "histopipe.evaluation.stage": ("require_both_classes", "require_cases"),
        "histopipe.core.files": ("require_disk",),
        "histopipe.ingest.plan": ("_drop_contradictions", "_drop_double_labels"),
        "histopipe.ingest.stage": ("_require_complete", "_require_patches", "_require_quality"),
        "histopipe.core.params": ("read_params",),
        "histopipe.promotion.served": ("require_intact",),
        "histopipe.ingest.sources.archive_file": ("check_archive", "count_zipped_patches"),
        "histopipe.data.splitting.membership": ("assert_disjoint",),
        "histopipe.data.splitting.record": ("require_record",),
        "histopipe.data.splitting.stage": ("require_classes",),
        "histopipe.data.store": ("_map_shard",),
        "histopipe.networks.weights.loading": ("check_file",),
        "zlib": ("crc32",),
    },
    "hashing": {
        "histopipe.core.files": ("file_digest",),
        "histopipe.ingest.sources.synthetic": ("code_digest",),
        "histopipe.training.checkpoint": ("training_key",),
        "histopipe.training.recipe": ("recipe_digest",),
        "histopipe.networks.weights.record": ("code_digest", "weights_digest"),
        "xxhash": ("xxh3_128_hexdigest",),
    },
    "logging": {
        "histopipe.evaluation.mlflow_run": ("log_evaluation", "log_files"),
        "histopipe.core.lineage": ("lineage_tags", "versions"),
        "histopipe.tracking": (
            "find_run",
            "find_run_of_training",
            "log_dataset_inputs",
            "log_epochs",
            "log_if_changed",
            "log_params",
            "prepare",
            "registry",
            "run_exists",
        ),
        "histopipe.training.stage": ("_log_end", "_log_start"),
        "mlflow": ("end_run", "log_artifact", "log_metrics", "set_tag", "set_tags", "start_run"),
    },
}


class Stopwatch:
    """A stopwatch of the watched functions, by kind."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(WATCHED, 0.0)
        self._within = False

    def around(self, kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, timed unless another timed one called it."""

        @wraps(function)
        def timed(*arguments: Any, **options: Any) -> Any:
            if self._within:
                return function(*arguments, **options)
            self._within = True
            began = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                self.seconds[kind] += time.perf_counter() - began
                self._within = False

        return timed

    @contextmanager
    def watching(self, stage: str) -> Iterator[None]:
        """Time the watched functions inside the block, wherever a module of histopipe calls them by name."""
        if stage in LOGGING_STAGES:
            self.around("logging", importlib.import_module)("mlflow")
        for kind, modules in WATCHED.items():
            for module, names in modules.items():
                if module != "mlflow" or stage in LOGGING_STAGES:
                    self._watch(kind, importlib.import_module(module), names)
        with patch.object(hashlib, "sha256", partial(_TimedHash, self, hashlib.sha256)):
            yield

    def _watch(self, kind: str, module: ModuleType, names: tuple[str, ...]) -> None:
        for name in names:
            plain = getattr(module, name)
            timed = self.around(kind, plain)
            setattr(module, name, timed)
            for module_name, other in tuple(sys.modules.items()):
                if module_name.startswith("histopipe.") and getattr(other, name, None) is plain:
                    setattr(other, name, timed)


class _TimedHash:
    """An SHA-256 whose `update` is timed."""

    def __init__(self, watch: Stopwatch, make: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        self._hash = make(*arguments, **options)
        self.update = watch.around("hashing", self._hash.update)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._hash, name)


def measure(stage: str) -> dict[str, float]:
    """Run a stage in the current folder; return its seconds, and those of each kind of safety."""
    from histopipe.cli import main as histopipe
    from histopipe.core import processes

    watch = Stopwatch()
    processes.available_cores = lambda: 1  # before ingest takes it from there
    began = time.perf_counter()
    with watch.watching(stage):
        histopipe([stage, *STAGES[stage]], standalone_mode=False)
    seconds = time.perf_counter() - began
    return {"seconds": round(seconds, 2)} | {kind: round(taken, 3) for kind, taken in watch.seconds.items()}


def prepare(root: Path, archive: Path) -> None:
    """Make an empty workspace whose source is the archive."""
    content = shipped_params() | {"datasets": ["idc"], "quick": QUICK}
    content["idc"]["source"] = str(archive)
    (root / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    (root / "requirements.lock").write_bytes((ROOT / "requirements.lock").read_bytes())


@click.command()
@click.option("--patches", default=PUBLISHED_PATCHES, show_default=True, help="Size of the archive.")
@click.option("--folder", type=click.Path(path_type=Path), default=Path(tempfile.gettempdir()) / "histopipe-benchmarks")
@click.option("--side", type=click.Choice(list(STAGES)), hidden=True)
def main(patches: int, folder: Path, side: str | None) -> None:
    """Run the stages; the last line is JSON and holds `ratio`."""
    if side:
        print(json.dumps(measure(side)))
        return
    folder.mkdir(parents=True, exist_ok=True)
    archive = full_size_archive(folder.resolve(), patches)
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(dir=folder) as root:
        prepare(Path(root), archive)
        for name, stage in (("first_locate", "locate"), *zip(STAGES, STAGES, strict=True)):
            timed = run_side("benchmarks.safety", "--side", stage, folder=Path(root), surroundings=environment(ROOT))
            results[name] = timed | {"share": round(sum(timed[kind] for kind in WATCHED) / timed["seconds"], 3)}
            print(f"{name}: {results[name]}", file=sys.stderr, flush=True)
    largest = max(STAGES, key=lambda stage: results[stage]["share"])
    ratio = round(LIMIT / results[largest]["share"], 2)
    report("safety", ratio=ratio, largest=largest, limit=LIMIT, patches=patches, **results)


if __name__ == "__main__":
    main()
