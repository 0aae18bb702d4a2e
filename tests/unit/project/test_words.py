"""The glossary of CONTRIBUTING.md holds: words given up are gone from names, docstrings, help texts and pages."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import PurePosixPath

import click
import pytest

from histopipe.cli import main
from tests.builders.paths import ROOT

# Not converted yet. These lists only ever get shorter: whoever converts an entry takes it off, and nothing is added.
PENDING_PACKAGES: frozenset[str] = frozenset()
PENDING_PAGES: frozenset[str] = frozenset()

LIBRARY = sorted(f"histopipe/{path.parent.name}" for path in (ROOT / "histopipe").glob("*/__init__.py"))
PACKAGES = ("flows", "tasks", *LIBRARY)
PAGES = ("CONTRIBUTING.md", "README.md", *sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/*.md")))
COMMANDS = "histopipe/cli"  # the package whose help texts are read, too

KEPT_NAMES = frozenset({"scores", "mend"})  # arguments that are called as their flags
ENTRYPOINTS = frozenset({("flows/score.py", "score")})  # flows that deployments on servers name
KEPT_FILES = frozenset(path for path, _ in ENTRYPOINTS)
KEPT_KEYS = frozenset({("histopipe/monitoring/record.py", "said")})  # keys of JSON files that users have
# names of the field, files and folders that users have, code, and the targets of links
KEPT_PHRASES = re.compile(r"\n +scores:|\b(F1|Brier|tumou?r) (scores?|grades?)\b|\bscores/|`[^`]*`|\]\([^)]*\)")
CODE_BLOCK = re.compile(r"^ *```.*?^ *```", re.DOTALL | re.MULTILINE)
PREDICATE_OPENINGS = re.compile(r"True\b|Return [Tt]rue\b|Check whether\b")
VAGUE_OPENINGS = ("Of", "As", "By", "What", "Whether", "How")


@cache
def glossary() -> str:
    """Return the section "Words" of CONTRIBUTING.md."""
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return page.partition("\n## Words\n")[2].partition("\n## ")[0]


@cache
def given_up_words() -> frozenset[str]:
    """Return the words in backticks in the last column of the glossary's tables."""
    rows = [line.strip("|").split("|") for line in glossary().splitlines() if line.startswith("|")]
    return frozenset(word for row in rows for word in re.findall(r"`([a-z ]+)`", row[-1]))


@cache
def empty_names() -> frozenset[str]:
    """Return the names that say nothing, from the paragraph below the glossary's tables."""
    sentence = glossary().partition("No name in the code is just")[2].partition(":")[0]
    return frozenset(re.findall(r"`([a-z]+)`", sentence))


def words_in(text: str) -> list[str]:
    """Find the given-up words in prose; code, links and the names of the field don't count."""
    prose = KEPT_PHRASES.sub(" ", CODE_BLOCK.sub(" ", text))
    pattern = "|".join(word.replace(" ", r"\s+") for word in sorted(given_up_words()))
    return re.findall(rf"(?<![\w-])(?:{pattern})(?![\w-])", prose, re.IGNORECASE)


def modules(package: str) -> Iterator[tuple[str, ast.Module]]:
    """Parse the modules of a package; yield each with its path."""
    for path in sorted((ROOT / package).rglob("*.py")):
        yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def bound_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """List what a module names itself, with line numbers: classes, functions, arguments, variables, attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr


def words_of_name(name: str) -> set[str]:
    """Split a name at underscores and capitals, in lower case."""
    return {part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str, bool]]:
    """List a module's docstrings with line numbers, and whether each is that of a public function."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, documented) and (text := ast.get_docstring(node)):
            function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            yield node.body[0].lineno, text, function and not node.name.startswith("_")


def problems_of_module(path: str, tree: ast.Module) -> Iterator[str]:
    """Describe the names and docstrings of a module that use a word given up, or begin so that they can't be read."""
    if path not in KEPT_FILES and words_of_name(PurePosixPath(path).stem) & given_up_words():
        yield f"{path}: the name of the file"
    for line, name in bound_names(tree):
        kept = (path, name) in ENTRYPOINTS | KEPT_KEYS or name in KEPT_NAMES
        if not kept and (name in empty_names() or words_of_name(name) & given_up_words()):
            yield f"{path}:{line}: the name {name}"
    for line, text, public in docstrings(tree):
        yield from (f"{path}:{line}: {word!r} in a docstring" for word in words_in(text))
        if public and text.split()[0].rstrip(",") in VAGUE_OPENINGS:
            yield f"{path}:{line}: a docstring begins with {text.split()[0]!r}"
        if opening := PREDICATE_OPENINGS.match(text):
            yield f"{path}:{line}: a docstring begins with {opening[0]!r} instead of 'Return whether'"


def help_texts(command: click.Command, name: str) -> Iterator[tuple[str, str]]:
    """List the help texts of a command, its options and its subcommands."""
    yield name, command.help or ""
    for parameter in command.params:
        yield f"{name} {parameter.name}", getattr(parameter, "help", None) or ""
    for key, subcommand in getattr(command, "commands", {}).items():
        yield from help_texts(subcommand, f"{name} {key}")


def problems_of_package(package: str) -> list[str]:
    """Describe all uses of given-up words in a package, help texts included."""
    problems = [problem for path, tree in modules(package) for problem in problems_of_module(path, tree)]
    if package == COMMANDS:
        texts = help_texts(main, "histopipe")
        problems += [f"help of `{name}`: {word!r}" for name, text in texts for word in words_in(text)]
    return problems


def problems_of_page(page: str) -> list[str]:
    """Describe the lines of a page that use a word given up; the glossary itself may."""
    text = (ROOT / page).read_text(encoding="utf-8").replace(glossary(), "")
    return [f"{page}: {word!r}" for word in words_in(text)]


def test_the_glossary_is_read() -> None:
    assert {"grade", "beside", "goes on"} <= given_up_words()
    assert {"found", "each", "given"} <= empty_names()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("the F1 score of a graded patch", ["graded"]),
        ("Brier score in `scores/new`, [a page](docs/grade.md)", []),
        ("training goes\non", ["goes\non"]),
        ("amended", []),
    ],
)
def test_words_are_looked_for_as_whole_words_in_prose(text: str, found: list[str]) -> None:
    assert words_in(text) == found


@pytest.mark.parametrize(
    ("path", "text", "problem"),
    [
        ("service/grading.py", "Predict patches.", "the name of the file"),
        ("a.py", "Check whether it is open.", "instead of 'Return whether'"),
        ("a.py", "Check that it is open.", None),
        ("a.py", "Return whether it is open.", None),
    ],
)
def test_names_of_files_and_openings_of_docstrings_are_read(path: str, text: str, problem: str | None) -> None:
    problems = list(problems_of_module(path, ast.parse(f'def is_open() -> bool:\n    """{text}"""')))
    assert [problem in reported for reported in problems] == ([True] if problem else [])


def test_names_are_split_into_words() -> None:
    assert words_of_name("GradedPoint") == {"graded", "point"}
    assert words_of_name("MAX_ROC_AUC") == {"max", "roc", "auc"}


@pytest.mark.parametrize("package", sorted(set(PACKAGES) - PENDING_PACKAGES))
def test_a_converted_package_uses_no_word_given_up(package: str) -> None:
    assert not problems_of_package(package)


@pytest.mark.parametrize("page", sorted(set(PAGES) - PENDING_PAGES))
def test_a_converted_page_uses_no_word_given_up(page: str) -> None:
    assert not problems_of_page(page)


@pytest.mark.parametrize("package", sorted(PENDING_PACKAGES))
def test_a_pending_package_still_has_something_to_convert(package: str) -> None:
    assert package in PACKAGES
    assert problems_of_package(package), f"{package} is converted: take it off PENDING_PACKAGES"


@pytest.mark.parametrize("page", sorted(PENDING_PAGES))
def test_a_pending_page_still_has_something_to_convert(page: str) -> None:
    assert page in PAGES
    assert problems_of_page(page), f"{page} is converted: take it off PENDING_PAGES"
