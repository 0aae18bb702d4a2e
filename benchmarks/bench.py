"""Run every benchmark of docs/performance.md, one after the other, and update the table there.

Each closing line is kept under `benchmarks/results` with command, commit and machine; the table is made from these
files alone. A benchmark is any module of this package whose last line is a JSON object: list it in `BENCHMARKS`.

    python -m benchmarks.bench               # all, as `make bench` does: leave the machine alone meanwhile
    python -m benchmarks.bench noop startup  # these alone
    python -m benchmarks.bench gpu           # needs a GPU; run only where it is named
    python -m benchmarks.bench --quick       # whether they run: small sizes, nothing is kept
    python -m benchmarks.bench --table       # the table alone, from what is kept
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.checkouts import ROOT
from benchmarks.measuring import run_command

RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "performance.md"
START, END = "<!-- table: made by `make bench` -->", "<!-- end of the table -->"
HEADER = ("benchmark", "ours", "other", "ratio", "aim", "command", "commit", "machine")
NUMBERS = frozenset({"ours", "other", "ratio"})  # columns
ABSENT = "–"


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        what: description of the comparison.
        aim: aim of the ratio, or of ours.
        ours, other: keys of the numbers in the closing line, joined by dots; empty for none.
        ratio: key of the ratio.
        unit: unit of `ours` and `other`.
    """

    what: str
    aim: str
    ours: str = ""
    other: str = ""
    ratio: str = "ratio"
    unit: str = "s"


@dataclass(frozen=True)
class Benchmark:
    """A module of this package and the contents of its closing line.

    Attributes:
        module: name of the module.
        rows: its rows of the table.
        quick: arguments of a run that only shows that it works.
        arguments: arguments of a run whose result is kept, where they aren't the defaults.
        on_request: whether it runs only by name, since it needs rare hardware.
    """

    module: str
    rows: tuple[Row, ...]
    quick: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    on_request: bool = False

    @property
    def kept(self) -> Path:
        """The path of its last result."""
        return RESULTS / f"{self.module}.json"


BENCHMARKS = (
    Benchmark(
        "ingest",
        (
            Row("ingest: archive to every patch decoded", "at least 8x", "ours.seconds", "tutorial.seconds"),
            Row(
                "ingest: compared with unzip and copy alone",
                "at least 2.5x",
                "ours.seconds",
                "",
                "ratio_unzip_and_copy",
            ),
            Row(
                "ingest: compared with the best decoder",
                "at least 0.6x",
                "ours.seconds",
                "decoder.seconds",
                "of_decoder",
            ),
        ),
        quick=("--patches", "3000", "--rounds", "1"),
    ),
    Benchmark(
        "loading",
        tuple(
            Row(what, aim, f"{ours}.patches_per_second", f"{other}.patches_per_second", ratio, "patches/s")
            for what, aim, ours, other, ratio in (
                (
                    "loading: CancerNet's augmentation, compared with the generator",
                    "at least 10x",
                    "ours",
                    "generator",
                    "ratio",
                ),
                ("loading: the same, compared with `tf.data` from files", "", "ours", "tf_data", "ratio_tf_data"),
                (
                    "loading: orientations and stain, compared with the generator",
                    "",
                    "ours_stain",
                    "generator",
                    "ratio_stain",
                ),
            )
        ),
        quick=("--rounds", "1"),
    ),
    Benchmark(
        "training",
        tuple(
            Row(what, aim, f"{recipe}.ours", f"{recipe}.{other}", ratio, "patches/s")
            for what, aim, recipe, other, ratio in (
                ("training: CancerNet, compared with the tutorial", "at least 1.8x", "cancernet", "tutorial", "ratio"),
                (
                    "training: CancerNet, compared with its ceiling",
                    "at least 0.95x",
                    "cancernet",
                    "ceiling",
                    "cancernet.of_ceiling",
                ),
                (
                    "training: HistoNet, compared with its ceiling",
                    "at least 0.95x",
                    "histonet",
                    "ceiling",
                    "histonet.of_ceiling",
                ),
            )
        ),
        quick=("--rounds", "1"),
    ),
    Benchmark(
        "predict",
        (
            Row("predict: float32, compared with the generator", "at least 3x", "float32.seconds", "generator.seconds"),
            Row(
                "predict: bfloat16, compared with the generator",
                "at least 6x",
                "bfloat16.seconds",
                "generator.seconds",
                "ratio_bfloat16",
            ),
            Row(
                "predict: float32, compared with Keras from the store",
                "",
                "float32.seconds",
                "keras.seconds",
                "ratio_keras",
            ),
        ),
        quick=("--rounds", "1"),
    ),
    Benchmark(
        "serving",
        (
            Row(
                "serving: requests at 32 clients, compared with `mlflow models serve`",
                "at least 5x",
                "ours.requests_per_second",
                "mlflow.requests_per_second",
                "ratio",
                "/s",
            ),
            Row(
                "serving: median latency of one client, compared with the same",
                "at least 1x",
                "ours.one_client_ms",
                "mlflow.one_client_ms",
                "ratio_one_client",
                "ms",
            ),
            Row("serving: p99 at twice the load it sustains", "bounded", "overload.p99_ms", "", "", "ms"),
            Row("serving: growth of memory over 20,000 requests", "at most 0.02", "soak.growth", "", "", ""),
        ),
        quick=("--rounds", "1", "--requests", "200", "--soak", "400", "--seconds", "2"),
    ),
    Benchmark(
        "floods",
        (
            Row("serving: two minutes of floods, then until others are answered", "10 s", "recovered_seconds"),
            Row("serving: from the stop signal to the end, during a flood", "30 s", "stopped_seconds", "", ""),
            Row("serving: most memory during the floods, compared with before", "", "most_mib", "first_mib", "", "MiB"),
        ),
        quick=("--seconds", "2"),
    ),
    Benchmark(
        "intervals",
        (Row("evaluate: 2,000 resamples", "at least 30x", "seconds", "reckoned_seconds_by_scikit_learn"),),
        quick=("--resamples", "100", "--sampled", "1"),
    ),
    Benchmark(
        "noop",
        (Row("noop: nothing to do, compared with tracked files", "at least 4x", "ours.seconds", "files.seconds"),),
        quick=("--patches", "3000", "--rounds", "1"),
    ),
    Benchmark(
        "orchestration",
        (
            Row("orchestration: Prefect flow, compared with `dvc repro`", "", "flow.seconds", "dvc.seconds"),
            Row("orchestration: what the flow takes longer", "at most 25 s", "extra_seconds", "", ""),
        ),
        quick=("--rounds", "1"),
    ),
    Benchmark(
        "startup",
        (
            Row(
                "startup: `histopipe --help`, compared with its limit",
                "0.5 s",
                "help.seconds",
                "limits.help",
                "ratios.help",
            ),
            Row(
                "startup: to the first step of a checkout's first training",
                "15 s",
                "first_training.seconds",
                "limits.first_training",
                "ratios.first_training",
            ),
            Row(
                "startup: to the first step of any other training",
                "15 s",
                "next_training.seconds",
                "limits.next_training",
                "ratios.next_training",
            ),
        ),
        quick=("--patches", "3000", "--rounds", "1"),
    ),
    Benchmark(
        "scaling",
        tuple(
            Row(
                f"scaling: {name}, a patch in the largest data set, compared with the cheapest smaller one",
                "at least 0.83x",
                f"{job}.largest",
                f"{job}.cheapest_smaller",
                f"{job}.ratio",
                "µs",
            )
            for name, job in (("ingest", "ingest"), ("split", "split"), ("evaluate", "grade"))
        ),
        quick=("--size", "5000", "--size", "10000", "--rounds", "1"),
    ),
    Benchmark(
        "workers",
        (
            Row(
                "workers: four equal trainings, two Dask workers compared with one",
                "at least 1.67x",
                "two.seconds",
                "one.seconds",
            ),
        ),
        quick=("--rounds", "1", "--epochs", "1", "--patches", "400"),
        arguments=("--rounds", "1", "--epochs", "5"),  # a round takes 16 minutes
    ),
    Benchmark(
        "safety",
        tuple(
            Row(
                f"safety: {stage}, share of validation, hashing and logging",
                "at most 0.1",
                f"{stage}.share",
                "",
                "",
                "",
            )
            for stage in ("fetch", "ingest", "train", "evaluate", "promote")
        ),
        quick=("--patches", "3000"),
    ),
    Benchmark(
        "gpu",
        (
            *(
                Row(
                    f"gpu: 40 epochs of CancerNet over 200,000 patches, {batch}, device compared with host",
                    "2 min",
                    f"{job}.minutes.resident",
                    f"{job}.minutes.host",
                    f"{job}.ratio",
                    "min",
                )
                for batch, job in (("its own batch", "cancernet_own"), ("batches of 1,024", "cancernet_1024"))
            ),
            Row(
                "gpu: the same in batches of 1,024, compared with the arithmetic limit",
                "",
                "cancernet_1024.resident",
                "cancernet_1024.limit",
                "",
                "patches/s",
            ),
        ),
        quick=("--recipe", "cancernet", "--batch", "0", "--patches", "3000", "--rounds", "1", "--seconds", "0.1"),
        on_request=True,
    ),
)


def run(benchmark: Benchmark, quick: bool, commit: str) -> None:
    """Run one benchmark; keep its result, unless the run is a quick one."""
    arguments = benchmark.quick if quick else benchmark.arguments
    command = ["python", "-m", f"benchmarks.{benchmark.module}", *arguments]
    print(" ".join(command), file=sys.stderr, flush=True)
    done = run_command([sys.executable, *command[1:]], ROOT)
    line = done.output.strip().splitlines()[-1]
    print(line, flush=True)
    if not quick:
        keep(benchmark.kept, " ".join(command), commit, json.loads(line))


def keep(path: Path, command: str, commit: str, result: dict[str, Any]) -> None:
    """Write a closing line with its origin."""
    path.parent.mkdir(exist_ok=True)
    machine = result.pop("machine")
    if "accelerator" in result:
        machine["accelerator"] = result.pop("accelerator")
    content = {"command": command, "commit": commit, "machine": machine, "found": result}
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def current_commit() -> str:
    """Return the measured commit, marked where the code differs from it."""
    commit = _git("rev-parse", "--short", "HEAD").strip()
    changed = _git("status", "--porcelain", "--", ".", f":!{RESULTS.relative_to(ROOT)}", f":!{PAGE.relative_to(ROOT)}")
    return f"{commit}, changed" if changed else commit


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def table() -> str:
    """Format the table in Markdown; a benchmark without a result has its aims alone."""
    ruler = ["--:" if name in NUMBERS else "---" for name in HEADER]
    rows = [cells(row, _kept(benchmark)) for benchmark in BENCHMARKS for row in benchmark.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in (HEADER, ruler, *rows))


def _kept(benchmark: Benchmark) -> dict[str, Any]:
    return json.loads(benchmark.kept.read_text(encoding="utf-8")) if benchmark.kept.exists() else {}


def cells(row: Row, kept: dict[str, Any]) -> list[str]:
    """Format a row's cells, in the order of `HEADER`; `kept` is the content that `keep` wrote."""
    result = kept.get("found", {})
    ours, other = (_shown(_at(result, key), f" {row.unit}".rstrip()) for key in (row.ours, row.other))
    ratio = _shown(_at(result, row.ratio), "x")
    if not kept:
        return [row.what, ours, other, ratio, row.aim, ABSENT, ABSENT, ABSENT]
    return [row.what, ours, other, ratio, row.aim, f"`{kept['command']}`", kept["commit"], _machine(kept["machine"])]


def _at(result: dict[str, Any], key: str) -> Any:
    """Return the value at a dotted key such as `ours.seconds`; None for an empty or missing key."""
    value: Any = result
    for name in filter(None, key.split(".")):
        value = value.get(name) if isinstance(value, dict) else None
    return value if key else None


def _shown(value: float | None, unit: str) -> str:
    """Format a number with three digits, or all digits of a larger number."""
    if value is None:
        return ABSENT
    return (f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}") + unit


def _machine(machine: dict[str, Any]) -> str:
    where = [f"{machine['cores']} cores", f"{machine['memory_gib']} GiB", f"Python {machine['python']}"]
    names = [str(machine[name]) for name in ("accelerator", "processor") if machine.get(name)]
    return ", ".join([*names, *where])


def write_table(page: Path) -> None:
    """Replace the table between its two markers."""
    before, _, rest = page.read_text(encoding="utf-8").partition(START)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{START}\n{table()}\n{END}{after}", encoding="utf-8")


@click.command()
@click.argument("names", nargs=-1, type=click.Choice([benchmark.module for benchmark in BENCHMARKS]))
@click.option("--quick", is_flag=True, help="Run each benchmark once with small sizes; keep no result.")
@click.option("--table", "table_alone", is_flag=True, help="Only rewrite the table.")
def main(names: tuple[str, ...], quick: bool, table_alone: bool) -> None:
    """Run the benchmarks, all or those named, and update the table of docs/performance.md."""
    commit = current_commit()
    for benchmark in () if table_alone else BENCHMARKS:
        if benchmark.module in names or not (names or benchmark.on_request):
            run(benchmark, quick, commit)
            if not quick:
                write_table(PAGE)
    if table_alone:
        write_table(PAGE)


if __name__ == "__main__":
    main()
