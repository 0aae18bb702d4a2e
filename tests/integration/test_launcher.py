"""`./run`, which starts every stage: this checkout's code and environment, whatever the shell around it knows."""

from __future__ import annotations

from collections.abc import Callable

from tests.builders.checkouts import Checkout, not_activated

Make = Callable[..., Checkout]


def test_stages_run_the_checkouts_own_code_without_activation(checkout: Make) -> None:
    """By `dvc repro`, in the folder of an experiment, and in that of a queued one."""
    project = not_activated(checkout(synthetic={"cases": 6, "patches": 60, "nested_copy": False}))
    with (project.root / "histopipe" / "__init__.py").open("a", encoding="utf-8") as module:
        module.write("\nprint('code of', __file__)\n")
    project.run("git", "commit", "--all", "--quiet", "--message", "code of its own")
    dvc = str(project.root / ".venv" / "bin" / "dvc")

    said = project.run(dvc, "repro", "locate").stdout
    assert "\n> ./run histopipe locate idc\n" in said
    assert f"code of {project.root}/histopipe/__init__.py" in said

    experiments = f"code of {project.root}/.dvc/tmp/exps/"
    assert experiments in project.run(dvc, "exp", "run", "--temp", "--set-param", "seed=7", "locate").stdout

    project.run(dvc, "exp", "run", "--queue", "--name", "queued", "--set-param", "seed=8", "locate")
    without = project.run(dvc, "queue", "start")  # docs/search.md says so
    assert "No such file or directory: 'dvc'" in without.stdout + without.stderr
    assert "Worker status: 0 active" in project.run(dvc, "queue", "status").stdout
    project.run("./run", "dvc", "queue", "start")
    assert experiments in project.run(dvc, "queue", "logs", "--follow", "queued").stdout
    project.run("./run", "dvc", "queue", "stop")
