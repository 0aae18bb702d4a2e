"""What a benchmark's closing line holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click import ClickException
from click.testing import CliRunner

from benchmarks import paired_coverage
from benchmarks.checkouts import claim
from benchmarks.measuring import report
from benchmarks.recipes import comparison_of, ingest_into


def last_line(output: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(output.strip().splitlines()[-1])
    return found


def test_the_closing_line_holds_a_ratio_or_says_why_there_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    report("one", 2.5, rounds=3)
    found = last_line(capsys.readouterr().out)
    assert (found["ratio"], found["rounds"], "no_ratio" in found) == (2.5, 3, False)
    report("other", "no rival")
    found = last_line(capsys.readouterr().out)
    assert (found["ratio"], found["no_ratio"]) == (None, "no rival")


@pytest.mark.slow
def test_the_coverage_of_differences_is_set_against_the_percentiles() -> None:
    options = {"--cases": 25, "--data-sets": 30, "--resamples": 100}
    done = CliRunner().invoke(paired_coverage.main, [str(part) for pair in options.items() for part in pair])
    found = last_line(done.stdout)
    assert isinstance(found["ratio"], float) and found["ratio"] > 0
    (shares,) = found["coverage"].values()  # type: ignore[attr-defined]
    assert {"ours", "percentiles", "delong_finds_nothing"} == set(shares)


def test_recipes_tell_what_neighbours_reach_by_themselves() -> None:
    def measured(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 0.05, "high": value + 0.04, "p": 0.01}

    rows = {"histonet + neighbours": 0.942, "histonet": 0.924, "ensemble": 0.93}
    pair = {"first": "histonet + neighbours", "second": "histonet", "p_delong": 0.02}
    content = {
        "ranking": [{"architecture": name, "test": {"roc_auc": measured(value)}} for name, value in rows.items()],
        "pairs": [pair | {"differences": {"roc_auc": measured(0.018)}}],
    }
    found = comparison_of(content)
    assert found["neighbours"] == {"histonet": [0.942, 0.892, 0.982]}
    assert found["pairs"] == [pair | {"difference": [0.018, -0.032, 0.058], "p": 0.01}]


def test_a_benchmark_deletes_only_folders_that_benchmarks_made(tmp_path: Path) -> None:
    own = claim(tmp_path / "own")
    (own / "drawn.zip").touch()
    assert (claim(own) / "drawn.zip").exists() and not (claim(own, emptied=True) / "drawn.zip").exists()
    (tmp_path / "files").mkdir()
    (tmp_path / "files/thesis.txt").touch()
    with pytest.raises(ClickException, match="holds other files than a benchmark"):
        claim(tmp_path / "files", emptied=True)
    with pytest.raises(ClickException, match="holds other files than a benchmark"):
        ingest_into(tmp_path / "files", "idc", tmp_path / "a.zip", {"idc": {}})
    assert [path.name for path in (tmp_path / "files").iterdir()] == ["thesis.txt"]
