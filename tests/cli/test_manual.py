"""The man pages and completions that are installed are those of the command."""

from __future__ import annotations

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

from edgesync.cli.completion import SHELLS, completion
from edgesync.cli.main import make_parser
from edgesync.cli.manual import man_page, subcommands
from edgesync.daemon.edgesyncd import _parser as parser_of_edgesyncd
from tests.cli.desk import ROOT
from tests.cli.shells import FILES, offered

SHARE = ROOT / "share"


def test_the_man_page_is_that_of_the_command() -> None:
    shipped = (SHARE / "man/man1/edgesync.1").read_text()
    assert shipped == man_page(), "python -m edgesync.cli.manual > share/man/man1/edgesync.1"


@pytest.mark.parametrize("shell", SHELLS)
def test_the_completion_is_that_of_the_command(shell: str) -> None:
    assert FILES[shell].read_text() == completion(shell), (
        f"python -m edgesync.cli.completion {shell}"
    )


def test_all_of_them_are_installed() -> None:
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    installed = {
        file
        for folder in settings["options.data_files"]
        for file in settings["options.data_files"][folder].split()
    }
    assert installed >= {str(path.relative_to(ROOT)) for path in SHARE.rglob("*") if path.is_file()}


def test_the_man_page_names_every_verb() -> None:
    page = man_page().replace("\\-", "-").replace("\\fB", "").replace("\\fR", "")
    for noun, parser in subcommands(make_parser()).items():
        for verb in subcommands(parser) or [""]:
            assert f"edgesync {noun} {verb}".strip() in page


def test_the_man_page_of_the_service_names_its_options() -> None:
    page = (SHARE / "man/man8/edgesyncd.8").read_text().replace("\\-", "-")
    for action in parser_of_edgesyncd()._actions:
        assert action.dest == "help" or action.option_strings[0] in page


@pytest.mark.parametrize("page", ["man1/edgesync.1", "man5/edgesync.toml.5", "man8/edgesyncd.8"])
def test_troff_has_nothing_to_complain_about(page: str) -> None:
    groff = shutil.which("groff")
    if groff is None:
        pytest.skip("needs groff")
    command = [groff, "-man", "-Tutf8", "-ww", "-z", str(SHARE / "man" / page)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert ended.stderr == ""


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("edgesync ", {"status", "doctor", "database"}),
        ("edgesync data", {"database"}),
        ("edgesync database ", {"backup", "restore", "verify"}),
        ("edgesync --json database re", {"restore"}),
        ("edgesync --socket api.sock database re", {"restore"}),
        ("edgesync --socket se", {"setup.file"}),
        ("edgesync database restore --", {"--yes", "--json", "--socket", "--help"}),
        ("edgesync status --w", {"--watch"}),
        ("edgesync database backup db setu", {"setup.file"}),
        ("edgesync database compact setu", set()),
    ],
)
def test_shells_offer_what_can_be_typed(
    shell: str, typed: str, wanted: set[str], tmp_path: Path
) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    (tmp_path / "setup.file").touch()
    said = offered(shell, typed, tmp_path)
    last = typed.rpartition(" ")[2]
    assert wanted <= said
    assert all(word.startswith(last) for word in said)
    assert bool(said) == bool(wanted)
