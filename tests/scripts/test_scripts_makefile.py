"""The Makefile as a user meets it."""

import re
import subprocess
from pathlib import Path

from lib.release.steps import STEPS

PROJECT = Path(__file__).resolve().parents[2]
MAKEFILE = (PROJECT / "Makefile").read_text(encoding="utf-8")


def test_make_alone_lists_every_target_with_a_line():
    done = subprocess.run(["make", "-C", str(PROJECT), "--no-print-directory"], capture_output=True, text=True, check=True)
    listed = {line.split()[0:2][1] for line in done.stdout.splitlines() if line.strip().startswith("make ")}
    assert listed == set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE))
    assert {"golive", "rollback", "test", "db-stop", "db-url", "db-shell", "clean", "purge"} <= listed


def test_the_makefile_names_the_steps_in_their_order():
    named = re.search(r"^GOLIVE_STEPS := (.*)$", MAKEFILE, re.MULTILINE)
    assert named is not None
    assert named[1].split() == [step.name for step in STEPS]


def test_purge_does_nothing_unless_it_is_told_to():
    done = subprocess.run(
        ["make", "-C", str(PROJECT), "--no-print-directory", "-n", "purge"], capture_output=True, text=True
    )
    commands = [line for line in done.stdout.splitlines() if line]
    assert "exit 2" in commands[0], "the first command of a plain purge must end it"


def test_clean_leaves_the_database_and_the_backups():
    done = subprocess.run(["make", "-C", str(PROJECT), "-n", "clean"], capture_output=True, text=True, check=True)
    assert ".local" not in done.stdout
    assert "locked_configs" not in done.stdout
