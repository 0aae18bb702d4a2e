"""Nothing that a user has is deleted: what may be written over, and what is refused in one line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from histopipe.cli import main
from histopipe.core.errors import OutputError
from histopipe.core.files import write_text
from histopipe.core.outputs.claims import (
    LONGEST_NAME,
    MARKER,
    OutputFiles,
    claim_file,
    claim_folder,
    claim_path,
    seal_text,
    text_digest,
)
from histopipe.core.outputs.overlap import Location
from histopipe.core.stages.folders import FILES, require_own_folder, stage_check
from histopipe.core.workspace import Workspace
from histopipe.ingest.synthetic.archive import write_archive
from histopipe.ingest.synthetic.plan import SyntheticSlides
from tests.builders.paths import ROOT


def write(out: Path, files: dict[str, str], command: str = "predict", overwrite: bool = False) -> None:
    with claim_folder(out, command, {}, overwrite).written() as folder:
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)


def content(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MARKER
    }


FIRST, SECOND = {"a.csv": "1", "maps/x.png": "2"}, {"a.csv": "3", "tissue/y.jpg": "4"}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    write(tmp_path / "out", FIRST)
    return tmp_path / "out"


def test_a_commands_own_output_is_replaced_on_request_only(out: Path) -> None:
    with pytest.raises(OutputError, match=r"is there already, written by `histopipe predict`.*--overwrite"):
        claim_folder(out, "predict", {})
    write(out, SECOND, overwrite=True)
    assert content(out) == SECOND
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def add(name: str) -> Callable[[Path], object]:
    def put(out: Path) -> None:
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("mine")

    return put


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (add("thesis.txt"), "holds thesis.txt"),
        (add(".thesis"), "holds .thesis"),
        (add(".hidden"), "holds .hidden"),
        (add("desktop.db"), "holds desktop.db"),
        (add("thesis\nhistopipe: done"), r"holds thesis\\x0ahistopipe: done, which"),
        (add("maps/thesis.txt"), "holds maps/thesis.txt"),
        (add("notes/thesis.txt"), "holds notes/thesis.txt"),
        (lambda out: (out / "notes").mkdir(), "holds notes/"),
        (lambda out: (out / "link").symlink_to("a.csv"), "holds link"),
        (lambda out: (out / "a.csv").write_text("9"), "holds a.csv, which was changed"),
        (lambda out: (out / "maps/x.png").write_text("9"), "holds maps/x.png, which was changed"),
        (lambda out: (out / "a.csv").unlink(), "lacks a.csv"),
        (lambda out: (out / "a.csv").rename(out / "maps/x.png"), "lacks a.csv"),
        (lambda out: (out / MARKER).unlink(), "holds a.csv"),
        (lambda out: (out / MARKER).write_text("{}"), rf"holds \{MARKER}"),
    ],
)
def test_what_somebody_changed_or_put_there_stays(out: Path, change: Callable[[Path], object], named: str) -> None:
    change(out)
    before = content(out)
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=named):
            claim_folder(out, "predict", {}, overwrite)
    assert content(out) == before


def test_another_commands_output_stays(out: Path) -> None:
    with pytest.raises(OutputError, match=r"was written by `histopipe predict`"):
        claim_folder(out, "monitor", {}, overwrite=True)


def test_what_systems_leave_stops_nobody(out: Path, tmp_path: Path) -> None:
    for folder in (out, out / "maps", tmp_path / "empty"):
        folder.mkdir(exist_ok=True)
        for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._a.csv"):
            (folder / name).write_text("x")
    write(out, SECOND, overwrite=True)
    write(tmp_path / "empty", FIRST)
    assert content(out) == SECOND and content(tmp_path / "empty") == FIRST


def test_folders_of_earlier_versions_are_told_so(tmp_path: Path) -> None:
    for name in ("summary.json", "predictions.parquet", "maps/8863.png"):
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_text("x")
    with pytest.raises(OutputError, match=r"earlier version of histopipe.* holds summary.json"):
        claim_folder(tmp_path / "out", "predict", {}, overwrite=True)
    (tmp_path / "out/maps/thesis.txt").write_text("x")
    with pytest.raises(OutputError, match=r"earlier version of histopipe.* holds maps/thesis.txt"):
        claim_folder(tmp_path / "out", "predict", {}, overwrite=True)


def test_a_file_put_there_meanwhile_stays_and_so_does_the_work(out: Path) -> None:
    claim = claim_folder(out, "predict", {}, overwrite=True)
    with pytest.raises(OutputError, match=r"holds thesis.txt") as problem, claim.written() as folder:
        (folder / "a.csv").write_text("3")
        (out / "thesis.txt").write_text("mine")
    assert content(out) == FIRST | {"thesis.txt": "mine"}
    (kept,) = (path for path in out.parent.iterdir() if path != out)
    assert content(kept) == {"a.csv": "3"} and str(kept) in str(problem.value)


@pytest.mark.parametrize("before", [{}, {"a.csv": "1", "maps/x.png": "2"}])
def test_a_folder_in_which_someone_stands_stays_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: dict[str, str]
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    if before:
        write(folder, before)
    monkeypatch.chdir(folder)
    inode = folder.stat().st_ino
    write(Path(), SECOND, overwrite=True)
    assert folder.stat().st_ino == inode and content(Path()) == SECOND
    assert claim_folder(Path(), "predict", {}, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_a_forged_marker_names_no_file_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").mkdir()
    for name in ("thesis.txt", "out/a.csv"):
        (tmp_path / name).write_text("mine")
    names = ("../thesis.txt", str(tmp_path / "thesis.txt"), "a.csv")
    marker = {"command": "predict", "complete": False, "files": {name: text_digest("mine") for name in names}}
    (tmp_path / "out" / MARKER).write_text(json.dumps(marker))
    monkeypatch.chdir(tmp_path / "out")
    write(Path(), FIRST, overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "mine" and content(Path()) == FIRST


def test_a_marker_of_a_hundred_thousand_brackets_is_foreign(out: Path) -> None:
    (out / MARKER).write_text("[" * 100_000)
    with pytest.raises(OutputError, match=rf"holds \{MARKER}"):
        claim_folder(out, "predict", {}, True)
    (out / "export.json").write_text("[" * 100_000)
    with pytest.raises(OutputError, match=r"export.json is there already"):
        OutputFiles(out, "export", "export.json", True).require_free(["a.onnx"])


def test_paths_that_no_disk_takes_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("x" * 300, f"{'x' * 300}/out", "x/" * 3000):
        with pytest.raises(OutputError, match=r"can't be looked up|longer than"):
            claim_path(tmp_path / name, {})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    with pytest.raises(OutputError, match=r"begins with ~.*write .*/me/scores$"):
        claim_folder(Path("~/scores"), "predict", {})
    (tmp_path / "~").mkdir()
    claim_folder(Path("~/scores"), "predict", {})


FILL = """
import os, sys
from pathlib import Path
from histopipe.core.outputs.claims import claim_folder

left = int(sys.argv[2])

def die(event, arguments):
    global left
    if event in ("os.rename", "os.remove", "shutil.move", "os.rmdir"):
        left -= 1
        if left == 0:
            os._exit(9)

os.chdir(sys.argv[1])
with claim_folder(Path(), "predict", {}, True).written() as folder:
    for name in ("a.csv", "b.csv"):
        (folder / name).write_text("new")
    sys.addaudithook(die)
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", [1, 2, 4, 6, 8, 10])
def test_a_kill_while_a_folder_is_filled_lets_the_same_command_go_on(tmp_path: Path, moment: int) -> None:
    out = tmp_path / "out"
    write(out, FIRST)
    done = subprocess.run([sys.executable, "-c", FILL, str(out), str(moment)], check=False)
    assert done.returncode == 9
    subprocess.run([sys.executable, "-c", FILL, str(out), "0"], check=True)
    assert content(out) == {"a.csv": "new", "b.csv": "new"}
    assert {path.name for path in out.iterdir()} == {"a.csv", "b.csv", MARKER}


def test_links_are_followed_and_those_to_nothing_refused(out: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(out)
    write(tmp_path / "link", SECOND, overwrite=True)
    assert (tmp_path / "link").is_symlink() and content(out) == SECOND
    (tmp_path / "dangling").symlink_to(tmp_path / "unmounted")
    with pytest.raises(OutputError, match=r"is a link to .*unmounted, which doesn't exist"):
        claim_folder(tmp_path / "dangling", "predict", {})
    (tmp_path / "file").write_text("mine")
    (tmp_path / "to-file").symlink_to("file")
    for name in ("file", "to-file"):
        with pytest.raises(OutputError, match=r"is a file"):
            claim_folder(tmp_path / name, "predict", {})
    with pytest.raises(OutputError, match=r"which is a file"):
        claim_folder(tmp_path / "file/below", "predict", {})
    with pytest.raises(OutputError, match=r"longer than"):
        claim_folder(tmp_path / ("x" * (LONGEST_NAME + 1)), "predict", {})


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("in", "in"),
        ("in", "in/out"),
        ("in/deep", "in"),
        ("in/../in", "in"),
        ("link", "in/out"),
        ("in", "link/out"),
        ("other", "in"),  # holds a link to it
        ("further", "in"),  # holds a link to a folder with a link to it
        ("in/a.png", "in"),
        ("in/new", "in/NEW/out"),  # neither is there yet; on a disk that knows no case they are the same
    ],
)
def test_inputs_and_outputs_lie_apart(tmp_path: Path, source: str, target: str) -> None:
    (tmp_path / "in/deep").mkdir(parents=True)
    (tmp_path / "in/a.png").write_text("image")
    (tmp_path / "link").symlink_to("in")
    (tmp_path / "other/folder").mkdir(parents=True)
    (tmp_path / "other/folder/there").symlink_to("../../in")
    (tmp_path / "further").mkdir()
    for name, leads in (("other", "../other"), ("round", ".")):
        (tmp_path / "further" / name).symlink_to(leads)
    before = content(tmp_path / "in")
    with pytest.raises(OutputError, match=r"write to another folder"):
        claim_folder(tmp_path / target, "predict", {"the input": [tmp_path / source]}, overwrite=True)
    assert content(tmp_path / "in") == before
    claim_folder(tmp_path / "apart", "predict", {"the input": [tmp_path / "in"]})


def in_a_namespace_of_its_own(script: str, *arguments: Path) -> str:
    """Run Python where it may mount."""
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare")
    command = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "MOUNTED" not in done.stdout:
        pytest.skip(f"may not mount here: {done.stderr.strip()[-100:]}")
    return done.stdout + done.stderr


MOUNTS = """
import subprocess, sys
from pathlib import Path
from histopipe.core.errors import OutputError
from histopipe.core.outputs.claims import claim_folder

root = Path(sys.argv[1])
subprocess.run(["mount", "--bind", root / "disk", root / "out"], check=True)
subprocess.run(["mount", "--bind", root / "in/deep", root / "same"], check=True)
subprocess.run(["mount", "--bind", root / "in", root / "other/in"], check=True)
print("MOUNTED")
for text in ("old", "new"):
    with claim_folder(root / "out", "predict", {}, True).written() as folder:
        (folder / "a.csv").write_text(text)
    print(text, (root / "disk/a.csv").read_text(), sorted(path.name for path in (root / "out").iterdir()))
for source, target in (("same", "in"), ("in", "same"), ("same", "in/deep/out"), ("other", "in/out"), ("disk", "out")):
    try:
        claim_folder(root / target, "predict", {"the input": [root / source]}, True)
        print("TAKEN", source, target)
    except OutputError as problem:
        print("refused")
"""


def test_mounts_are_filled_and_seen_through(tmp_path: Path) -> None:
    for name in ("disk/lost+found", "out", "in/deep", "same", "other/in"):
        (tmp_path / name).mkdir(parents=True)
    said = in_a_namespace_of_its_own(MOUNTS, tmp_path)
    assert "old old" in said and "new new" in said and "lost+found" in said, said
    assert said.count("refused") == 5 and "TAKEN" not in said, said


def test_names_that_differ_in_case_or_form_alone_are_one_place(tmp_path: Path) -> None:
    one, other = (Location.from_path(tmp_path / name) for name in ("Bär/x", "BA\u0308R"))
    assert other.holds(one) and not one.holds(other)
    assert not Location.from_path(tmp_path / "Ba").holds(one)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "..",
        ".git",
        ".git/x",
        "data",
        "data/raw",
        "models/idc/cancernet",
        "evaluations",
        "reports/idc/new",
        "mlflow.db",
    ],
)
def test_a_checkouts_own_folders_are_not_for_results(tmp_path: Path, name: str) -> None:
    root = tmp_path / "checkout"
    root.mkdir()
    with pytest.raises(OutputError, match=r"checkout"):
        claim_folder(root / name, "predict", {}, True, Workspace(root))
    claim_folder(root / "scores/new", "predict", {}, True, Workspace(root))


def test_neither_home_nor_the_root_is_for_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "users/me").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "users/me"))
    for path in (Path("/"), tmp_path / "users/me", tmp_path / "users"):
        with pytest.raises(OutputError, match=r"not a folder for results"):
            claim_folder(path, "predict", {}, True)


def test_a_file_is_replaced_only_where_it_is_the_commands_own(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_text("mine")
    with pytest.raises(OutputError, match=r"didn't write it"):
        claim_file(tmp_path / "a.zip", "synth", {}, overwrite=True)
    with pytest.raises(OutputError, match=r"--overwrite"):
        claim_file(tmp_path / "a.zip", "synth", {}, is_own=lambda path: True)
    assert claim_file(tmp_path / "a.zip", "synth", {}, True, is_own=lambda path: True) == tmp_path / "a.zip"
    with pytest.raises(OutputError, match=r"contains the input"):
        claim_path(tmp_path / "a.zip", {"the input": [tmp_path / "a.zip"]})


@pytest.mark.slow
def test_synth_replaces_only_a_zip_that_it_wrote(tmp_path: Path) -> None:
    out = tmp_path / "a.zip"
    drawn = ["synth", "idc", "--cases", "2", "--patches", "20", "--out", str(out)]

    def run(*more: str) -> tuple[int, str]:
        done = CliRunner().invoke(main, [*drawn, *more])
        return done.exit_code, done.stderr.strip().splitlines()[-1] if done.exit_code else done.stdout

    assert run()[0] == 0
    first = out.read_bytes()
    code, said = run()
    assert code == 2 and "--overwrite" in said
    assert run("--overwrite")[0] == 0 and out.read_bytes() == first
    with zipfile.ZipFile(out, "a") as archive:
        archive.writestr("thesis.txt", "mine")
    mine = out.read_bytes()
    code, said = run("--overwrite")
    assert code == 2 and "didn't write it" in said and out.read_bytes() == mine


@pytest.mark.slow
def test_synth_replaces_nothing_that_came_while_it_drew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "a.zip"

    def late(path: Path, slides: object, **options: Any) -> dict[str, int]:
        out.write_text("mine")
        return write_archive(path, SyntheticSlides(1, 4, False, 1, "idc"), 1, **options)

    monkeypatch.setattr("histopipe.ingest.synthetic.archive.write_archive", late)
    done = CliRunner().invoke(main, ["synth", "idc", "--out", str(out), "--overwrite"])
    assert done.exit_code == 2 and "didn't write it" in done.stderr and out.read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def put(output: OutputFiles, name: str, text: str) -> None:
    output.require_free([name])
    output.announce({name: text_digest(text)})
    write_text(output.folder / name, text)
    output.finish({"exports": {}}, {name: text_digest(text)})


def test_files_beside_others_are_replaced_only_where_they_are_listed_and_unchanged(tmp_path: Path) -> None:
    first, again = (OutputFiles(tmp_path, "export", "export.json", overwrite) for overwrite in (False, True))
    (tmp_path / "b.onnx").write_text("mine")
    put(first, "a.onnx", "1")
    with pytest.raises(OutputError, match=r"a.onnx is there already.*--overwrite"):
        put(first, "a.onnx", "2")
    put(again, "a.onnx", "2")
    with pytest.raises(OutputError, match=r"b.onnx is there already"):
        put(again, "b.onnx", "2")
    again.announce({"a.onnx": text_digest("3"), "c.onnx": text_digest("3")})
    (tmp_path / "c.onnx").write_text("3")  # and killed
    put(first, "c.onnx", "3")
    (tmp_path / "a.onnx").write_text("mine")
    with pytest.raises(OutputError, match=r"a.onnx is there already"):
        put(again, "a.onnx", "2")
    register = json.loads((tmp_path / "export.json").read_text())
    (tmp_path / "export.json").write_text(json.dumps(register | {"mine": 1}))
    with pytest.raises(OutputError, match=r"export.json is there already"):
        put(again, "c.onnx", "2")


def test_a_page_that_somebody_changed_stays(tmp_path: Path) -> None:
    output, page = OutputFiles(tmp_path, "export", "export.json", True), tmp_path / "export.md"
    for text in ("", "# Exports\n", "# Exports\n\nmine\n"):
        write_text(page, seal_text(text, "export"))
        output.require_free([], sealed=["export.md"])
        for changed in (f"mine{page.read_text()}", f"{page.read_text()}mine", seal_text(text, "monitor"), text):
            page.write_text(changed)
            with pytest.raises(OutputError, match=r"export.md is there already"):
                output.require_free([], sealed=["export.md"])


def sample(pattern: str) -> str:
    return pattern.replace("*", "001")


@pytest.mark.parametrize(
    ("stage", "of", "folder"),
    [
        ("fetch", ("idc", None, None), "data/raw/idc"),
        ("ingest", ("idc", None, None), "data/store/idc"),
        ("weights", (None, "cancernet", None), "data/weights/cancernet"),
        ("train", ("idc", "cancernet", None), "models/idc/cancernet"),
        ("evaluate", ("idc", "cancernet", None), "evaluations/idc/cancernet"),
        ("compare", ("idc", None, None), "reports/idc"),
        ("train_variant", ("idc", "cancernet", "fold-3"), "studies/idc/cancernet/fold-3"),
        ("study", ("idc", None, "folds"), "studies/summaries/idc/folds"),
        ("search", ("idc", "cancernet", None), "searches/idc/cancernet"),
    ],
)
@pytest.mark.parametrize("foreign", ["thesis.txt", "notes/thesis.txt", "figures/thesis.txt"])
def test_stages_replace_folders_of_their_own_files_only(
    tmp_path: Path, stage: str, of: tuple[Any, Any, Any], folder: str, foreign: str
) -> None:
    workspace = Workspace(tmp_path)
    require_own_folder(stage, *of, workspace)
    for name in [*map(sample, FILES[stage]), ".DS_Store", ".gitignore"]:
        (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / name).write_text("{}")
    require_own_folder(stage, *of, workspace)
    (tmp_path / folder / foreign).parent.mkdir(exist_ok=True)
    (tmp_path / folder / foreign).write_text("mine")
    with pytest.raises(OutputError, match=f"{folder}/{foreign} is no file of `histopipe {stage}`"):
        require_own_folder(stage, *of, workspace)


def test_fetch_knows_its_archive_whatever_it_is_called(tmp_path: Path) -> None:
    check = stage_check("fetch")
    (tmp_path / "patches.zip").write_bytes(b"PK")
    check(tmp_path)
    (tmp_path / "mine.zip").write_bytes(b"PK")
    with pytest.raises(OutputError, match=r"zip is no file of `histopipe fetch`"):
        check(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["predict", "in", "--model", "none", "--out", "mine"], "mine holds a.onnx, thesis.txt, which"),
        (["predict", "in", "--model", "none", "--out", "in"], "in contains the input"),
        (["predict", "in", "--model", "none", "--out", "in/new"], "in/new is in the input"),
        (["predict", "in", "--model", "mine", "--out", "mine/new"], "mine/new is in the model"),
        (["predict", "in", "--model", "none", "--out", "."], ". contains the input"),
        (["monitor", "idc", "in", "--model", "none", "--out", "mine"], "mine holds a.onnx, thesis.txt, which"),
        (["monitor", "idc", "--scores", "mine", "--out", "mine"], "mine contains the predictions"),
        (["monitor", "idc", "--scores", "mine", "--out", "mine/new"], "mine/new is in the predictions"),
        (["export", "idc", "--format", "onnx", "--out", "mine/a.onnx"], "mine/a.onnx is there already"),
        (["synth", "idc", "--out", "mine/thesis.txt"], "mine/thesis.txt is there already"),
        (["predict", "in", "--out", "new", "--pseudonymise", "--pseudonym-table", "in/t.csv"], "in/t.csv is in"),
    ],
)
def test_commands_refuse_before_anything_is_read(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, arguments: list[str], named: str
) -> None:
    monkeypatch.chdir(workspace.root)
    shutil.copy(ROOT / "params.yaml", workspace.root)
    for name in ("in/a.png", "mine/thesis.txt", "mine/a.onnx"):
        (workspace.root / name).parent.mkdir(exist_ok=True)
        (workspace.root / name).write_text("mine")
    for options in ([], ["--overwrite"]):
        done = CliRunner().invoke(main, [*arguments, *options])
        assert done.exit_code == 2 and done.stderr.startswith("histopipe: ") and named in done.stderr, done.stderr
        assert content(workspace.root / "in") == {"a.png": "mine"}
        assert content(workspace.root / "mine") == {"thesis.txt": "mine", "a.onnx": "mine"}


def test_by_hand_too_a_stage_stops_before_any_work(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace.root)
    shutil.copy(ROOT / "params.yaml", workspace.root)
    thesis = workspace.model("idc", "cancernet") / "thesis.txt"
    thesis.parent.mkdir(parents=True)
    thesis.write_text("mine")
    done = CliRunner().invoke(main, ["train", "idc", "cancernet"])
    assert done.exit_code == 2 and done.stderr.startswith(f"histopipe: {os.fspath(thesis)} is no file of")
    assert thesis.read_text() == "mine"
