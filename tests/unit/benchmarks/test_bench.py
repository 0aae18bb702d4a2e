"""The table of docs/performance.md is what the kept results give."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

from benchmarks import bench
from benchmarks.bench import BENCHMARKS, END, PAGE, RESULTS, START, Benchmark, Row, cells, keep, run, write_table
from benchmarks.measuring import run_command
from benchmarks.scaling import repeated_archive, summed_up
from histopipe.ingest.archives.reading import open_archive
from histopipe.ingest.datasets import get_dataset
from histopipe.ingest.plan import plan_ingest

LINE = {"benchmark": "noop", "ratio": 4.166, "ours": {"seconds": 1.2}, "files": {"seconds": 5}, "patches": 277_524}
MACHINE = {"processor": "AMD EPYC", "cores": 2, "memory_gib": 24, "python": "3.11.7"}
NOTHING_TO_DO = Row("nothing to do", "at least 4x", "ours.seconds", "files.seconds")


def test_the_table_of_the_docs_is_what_the_results_give(tmp_path: Path) -> None:
    written = PAGE.read_text(encoding="utf-8")
    copy = tmp_path / "performance.md"
    copy.write_text(written, encoding="utf-8")
    write_table(copy)
    assert copy.read_text(encoding="utf-8") == written, "run `python -m benchmarks.bench --table`"


def test_every_kept_result_is_of_a_benchmark_in_the_list() -> None:
    assert {path.name for path in RESULTS.glob("*")} <= {one.kept.name for one in BENCHMARKS}


@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda one: one.module)
def test_every_benchmark_is_a_command_and_takes_the_arguments_it_gets(benchmark: Benchmark) -> None:
    command = importlib.import_module(f"benchmarks.{benchmark.module}").main
    for arguments in (benchmark.arguments, benchmark.quick):
        command.make_context(benchmark.module, list(arguments))


@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda one: one.module)
def test_a_kept_result_holds_what_its_rows_name(benchmark: Benchmark) -> None:
    if not benchmark.kept.exists():
        pytest.skip("not measured yet")
    kept = json.loads(benchmark.kept.read_text(encoding="utf-8"))
    for row in benchmark.rows:
        for place in filter(None, (row.ours, row.other, row.ratio)):
            assert bench._at(kept["found"], place) is not None, place


def test_a_row_shows_numbers_aim_and_where_they_come_from(tmp_path: Path) -> None:
    keep(tmp_path / "noop.json", "python -m benchmarks.noop", "0a1b2c3", {**LINE, "machine": MACHINE})
    kept = json.loads((tmp_path / "noop.json").read_text(encoding="utf-8"))
    assert cells(NOTHING_TO_DO, kept) == [
        "nothing to do",
        "1.2 s",
        "5 s",
        "4.17x",
        "at least 4x",
        "`python -m benchmarks.noop`",
        "0a1b2c3",
        "AMD EPYC, 2 cores, 24 GiB, Python 3.11.7",
    ]


def test_a_benchmark_that_was_never_run_shows_its_aim() -> None:
    assert cells(NOTHING_TO_DO, {}) == ["nothing to do", "–", "–", "–", "at least 4x", "–", "–", "–"]


def test_the_table_takes_the_place_between_its_markers(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{START}\nan old table\n{END}\nafter\n", encoding="utf-8")
    write_table(page)
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"before\n{START}\n| benchmark | ours |")
    assert text.endswith(f"|\n{END}\nafter\n")
    assert "an old table" not in text


@pytest.mark.slow
def test_what_a_benchmark_prints_last_is_kept_but_for_a_quick_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`intervals` stands for all: it ends within seconds."""
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "results")
    small = ("--resamples", "10", "--sampled", "1")
    benchmark = Benchmark("intervals", (), quick=small, arguments=small)
    run(benchmark, quick=True, commit="0a1b2c3")
    assert not benchmark.kept.exists()
    run(benchmark, quick=False, commit="0a1b2c3")
    kept = json.loads(benchmark.kept.read_text(encoding="utf-8"))
    assert kept["command"] == "python -m benchmarks.intervals --resamples 10 --sampled 1"
    assert kept["commit"] == "0a1b2c3"
    assert kept["machine"]["cores"] >= 1
    assert kept["found"]["resamples"] == 10
    assert kept["found"]["ratio"] > 0


def test_a_command_that_fails_ends_the_measurement_and_shows_what_it_said() -> None:
    with pytest.raises(SystemExit, match=r"ended with 3: no room"):
        run_command([sys.executable, "-c", "print('no room'); raise SystemExit(3)"])


def test_a_command_is_timed_with_its_memory_and_what_it_said(tmp_path: Path) -> None:
    said = "import os, time; held = bytearray(2**28); time.sleep(1); print(os.getcwd())"
    done = run_command([sys.executable, "-c", said], tmp_path)
    assert done.output.strip() == str(tmp_path)
    assert done.seconds >= 1
    assert done.peak_gib > 0.25


@pytest.mark.slow
def test_larger_archives_repeat_few_cases_none_of_which_ingest_sets_aside(tmp_path: Path) -> None:
    plan = plan_ingest(open_archive(repeated_archive(tmp_path, 12_000)).members, get_dataset("idc"))
    assert len(plan.patches) == 12_000
    assert not plan.unused.files
    cases = {planned.name.case_id for planned in plan.patches}
    assert 10 < len(cases) <= 15  # five drawn, in three copies, the last of them in part


def test_a_patch_that_costs_more_in_the_largest_data_set_shows() -> None:
    """Half as dear in the middle size: what starts once weighs on the smallest, and hides nothing."""
    seconds = {10: 0.04, 100: 0.1, 1000: 2.0}
    found = {
        f"{job} {size}": {"seconds": took, "peak_gib": 1 + size / 2**20}
        for job in ("ingest", "split", "grade")
        for size, took in seconds.items()
    }
    ingest = summed_up(found, tuple(seconds))["ingest"]
    assert ingest["microseconds_per_patch"] == [4000, 1000, 2000]
    assert ingest["ratio"] == 0.5
    assert ingest["kb_per_further_patch"] == pytest.approx(1)
