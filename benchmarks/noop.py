"""`dvc repro` with nothing to do: the packed store's checkout against the same patches as tracked files.

Ours is a checkout whose whole pipeline is up to date with a store of full size; the trained network is small, since
DVC looks at its file alone. The other side is the archive's content, unzipped and added to DVC as a folder of files, of
which `dvc status` is asked. Both are prepared once and kept in `--folder`; ours is brought up to date where the code
has changed since.

    python -m benchmarks.noop                # 277,524 patches; some minutes longer the first time
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import click

from benchmarks.checkouts import change_params, claim, commit_all, copy_project, environment
from benchmarks.ingest import PUBLISHED_PATCHES, full_size_archive
from benchmarks.measuring import alternate, medians, report, run_command

DVC = (sys.executable, "-m", "dvc")
TRAINED = {"max_epochs": 1, "max_patches": 256, "max_image_size": 32, "weights": "random"}


def up_to_date_checkout(folder: Path, archive: Path) -> Path:
    """Make a checkout whose every stage has run on the archive, for one briefly trained architecture."""
    root = claim(folder / "ours")
    copy_project(root)
    change_params(root, datasets=["idc"], architectures=["cancernet"], quick=TRAINED, idc={"source": str(archive)})
    subprocess.run([*DVC, "repro"], cwd=root, env=environment(root), check=True, stdout=sys.stderr)
    return root


def tracked_files(folder: Path, archive: Path) -> Path:
    """Make a repository in which the archive's files are tracked as a folder."""
    root = folder / "files"
    if not (root / "patches.dvc").exists():
        claim(root, emptied=True)
        commit_all(root)
        with zipfile.ZipFile(archive) as content:
            content.extractall(root / "patches")
        link = ("config", "cache.type", "reflink,copy")  # as ours
        for command in (("init", "--quiet"), link, ("add", "--quiet", "patches")):
            subprocess.run([*DVC, *command], cwd=root, env=environment(root), check=True, stdout=sys.stderr)
    return root


def measure_noop(root: Path, command: Sequence[str]) -> dict[str, float]:
    """Measure the seconds of a DVC command that finds nothing to do.

    Raises:
        SystemExit: the command found something to do.
    """
    done = run_command([*DVC, *command], root, environment(root))
    if "Data and pipelines are up to date" not in done.output:
        raise SystemExit(f"dvc {' '.join(command)} in {root} found something to do: {done.output[-2000:]}")
    return done.measured


@click.command()
@click.option("--patches", default=PUBLISHED_PATCHES, show_default=True, help="Size of the archive.")
@click.option("--rounds", default=5, show_default=True, help="How often each side runs.")
@click.option("--folder", type=click.Path(path_type=Path), default=Path(tempfile.gettempdir()) / "histopipe-benchmarks")
def main(patches: int, rounds: int, folder: Path) -> None:
    """Compare the two ways; the last line is JSON and holds `ratio`."""
    folder.mkdir(parents=True, exist_ok=True)
    archive = full_size_archive(folder.resolve(), patches)
    prepared = folder.resolve() / f"noop-{patches}"
    ours, files = up_to_date_checkout(prepared, archive), tracked_files(prepared, archive)
    sides = {"ours": lambda: measure_noop(ours, ["repro"]), "files": lambda: measure_noop(files, ["status"])}
    for measure in sides.values():
        measure()  # the first run after a change hashes again
    results = {name: medians(measurements) for name, measurements in alternate(sides, rounds).items()}
    ratio = round(results["files"]["seconds"] / results["ours"]["seconds"], 2)
    report("noop", ratio=ratio, patches=patches, rounds=rounds, **results)


if __name__ == "__main__":
    main()
