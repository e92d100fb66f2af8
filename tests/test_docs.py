"""What the documents say is so."""

from __future__ import annotations

import base64
import configparser
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from itertools import chain
from pathlib import Path

import pytest

from edgesync.cli.main import EXIT_CODES, make_parser
from edgesync.cli.manual import subcommands
from edgesync.daemon.config import ListenerConfig, parse_config
from tests.cli.test_invite import read as read_qr_code

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "edgesync"
README = (ROOT / "README.md").read_text()
SOURCES = sorted(PACKAGE.rglob("*.py"))


def block(language: str) -> str:
    """Return what README has in its only block of that language."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", README, re.M | re.S)
    return str(found)


def run(folder: Path, *arguments: str) -> str:
    ended = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


# --- README ------------------------------------------------------------------


def test_the_python_example_runs(tmp_path: Path) -> None:
    example = block("python").replace("port=4984", "port=0")
    assert "wss://127.0.0.1:" in run(tmp_path, "-c", example)


def test_the_configuration_example_is_accepted() -> None:
    (listener,) = parse_config(block("toml"), "README.md").listeners
    assert listener.name == "field"


def test_every_key_of_a_listener_is_explained() -> None:
    keys = {field.name for field in fields(ListenerConfig)} - {"name"}
    assert {key for key in keys if f"\n{key} = " not in README} == set()


def test_every_test_that_shows_what_it_survives_exists() -> None:
    (section,) = re.findall(r"^## What it survives\n(.*?)^## ", README, re.M | re.S)
    named = re.findall(r"`([\w/]+\.py)`", section)
    assert named
    assert [name for name in named if not (ROOT / "tests" / name).is_file()] == []


def test_the_floors_are_those_that_lint_enforces() -> None:
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    layers = settings["importlinter:contract:floors"]["layers"]
    enforced = [re.findall(r"\w+", line) for line in layers.split("\n") if line]
    shown = [re.split(r" {2,}", line)[0].split(" | ") for line in block("floors").splitlines()]
    assert shown == enforced


def test_what_the_tree_shows_exists() -> None:
    assert [path for path in shown_paths() if not (ROOT / path).exists()] == []


def test_the_tree_shows_every_package() -> None:
    packages = {path.parent.relative_to(ROOT) for path in PACKAGE.glob("*/__init__.py")}
    assert packages <= set(shown_paths())


def shown_paths() -> list[Path]:
    paths: list[Path] = []
    top = Path()
    for line in block("tree").splitlines():
        name = Path(line.split()[0])
        if line.startswith(" "):
            paths.append(top / name)
        else:
            top = name
            paths.append(name)
    return paths


def test_every_verb_of_the_command_is_listed() -> None:
    for noun, parser in subcommands(make_parser()).items():
        (line,) = (
            line for line in README.splitlines() if line.startswith("| `") and f"`{noun}`" in line
        )
        assert {verb for verb in subcommands(parser) if f"`{verb}`" not in line} == set()


def test_every_exit_code_is_explained() -> None:
    codes = {0, *(code for _, code in EXIT_CODES)}
    (line,) = re.findall(r"^Exit codes: (.*?)\.", README, re.M | re.S)
    assert {int(code) for code in re.findall(r"\b\d\b", line)} == codes


def test_the_qr_code_says_what_stands_below_it() -> None:
    blocks = re.findall(r"^    ([█▀▄ ]+)$\n", README, re.M)
    url, _, fragment = read_qr_code(blocks).partition("#")
    fingerprint = re.findall(r"^    fingerprint +([0-9A-F:]+)$", README, re.M)[0]
    assert f"    url             {url}\n" in README
    digest = base64.urlsafe_b64decode(fragment[3:46] + "=")
    assert digest.hex(":").upper() == fingerprint


TEST = re.compile(r"`([\w/]+\.py)::(test_\w+)`")


def test_every_claim_of_the_security_review_has_its_tests() -> None:
    claims = re.findall(r"^\|.*\| (?:can|cannot) \|.*$", README, re.M)
    shown = [TEST.findall(claim) for claim in claims]
    assert len(claims) > 20
    assert [claim for claim, tests in zip(claims, shown, strict=True) if not tests] == []
    missing = [
        f"{file}::{name}"
        for file, name in chain.from_iterable(shown)
        if f"\ndef {name}(" not in text_of(ROOT / "tests" / file)
    ]
    assert missing == []


def text_of(path: Path) -> str:
    return path.read_text() if path.exists() else ""


# --- docstrings ----------------------------------------------------------------

SHIPPED = {path.name: path for path in PACKAGE.rglob("*.md")}


def sections(document: Path) -> set[str]:
    return set(re.findall(r"^#+ (\d+(?:\.\d+)*)\.? ", document.read_text(), re.M))


def citations(source: Path) -> Iterator[tuple[str, str]]:
    """Yield file and section of each rule that a module cites; no section: "" ."""
    for text in re.findall(r'Spec: (.*?)(?:\n\s*\n|""")', source.read_text(), re.S):
        document = ""
        for name, section in re.findall(r"([\w-]+\.md)|§(\d+(?:\.\d+)*)", text):
            document = name or document
            yield document, section


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_cited_rule_is_in_a_shipped_document(source: Path) -> None:
    missing = [
        f"{document} §{section}"
        for document, section in citations(source)
        if document not in SHIPPED or (section and section not in sections(SHIPPED[document]))
    ]
    assert missing == []


def test_rules_are_cited() -> None:
    assert any(document for source in SOURCES for document, _ in citations(source))


@pytest.mark.parametrize(
    "package",
    sorted(PACKAGE.rglob("__init__.py")),
    ids=lambda path: str(path.parent.relative_to(ROOT)),
)
def test_a_package_says_what_it_is_for(package: Path) -> None:
    assert package.read_text().startswith('"""')


# --- names -----------------------------------------------------------------------


def test_a_module_has_a_name_of_its_own() -> None:
    names = Counter(
        path.stem
        for path in SOURCES
        if path.name != "__init__.py" and "cli" not in path.relative_to(PACKAGE).parts
    )
    assert [name for name, count in names.items() if count > 1] == []


# --- examples ----------------------------------------------------------------------


def test_readings_are_shared(tmp_path: Path) -> None:
    said = run(tmp_path, "-m", "examples.share_readings", "2")
    assert "2 readings" in said
