"""The README names only what is there."""

import re
from pathlib import Path

import pytest

from lib.platform.errors import MEANINGS

PROJECT = Path(__file__).resolve().parents[2]
README = (PROJECT / "README.md").read_text(encoding="utf-8")


def test_the_exit_codes_are_those_of_the_code():
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", README, re.MULTILINE)
    assert rows == [(str(int(code)), meaning) for code, meaning in MEANINGS.items()]


def test_every_script_it_names_is_there():
    named = set(re.findall(r"`(?:\S*scripts/)?([a-z_]+)\.py", README))
    assert len(named) > 15
    assert named <= {path.stem for path in (PROJECT / "scripts").glob("*.py")}


def test_every_script_that_is_there_is_named():
    for path in (PROJECT / "scripts").glob("[a-z]*.py"):
        assert path.name in README or path.stem == "golive", path.name


def test_every_make_target_it_names_is_there():
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"(?:^|`|\$ )make ([a-z-]+)", README, re.MULTILINE))
    assert {"golive", "rollback", "test", "lint"} <= named <= targets


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_every_file_it_links_to_is_there(target):
    assert (PROJECT / target).exists()


def test_every_place_it_links_to_within_itself_is_there():
    titles = re.findall(r"^## (.+)$", README, re.MULTILINE)
    places = {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}
    linked = set(re.findall(r"\]\(#([^)]+)\)", README))
    assert linked
    assert linked <= places
