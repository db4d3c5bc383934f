"""Going live: steps in order under one lease, stopping at the first that does not pass, going on from there next time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lib.index.releases import Release
from lib.platform.errors import ConfigInvalid, IntegrityMismatch, LeaseHeld, NotFound
from lib.platform.files import read_json
from lib.platform.lease import lease
from lib.release import golive, receipts, traffic
from lib.release.golive import Outcome, StepOutcome
from lib.release.steps import Context, Options, Step, find
from tests.conftest import HANDBOOK, PROJECT, write_corpus
from tests.release.staged import CASES, Project, files_below, sync, write_cases

TELLS_ITS_NAME = """\
import os, sys
from pathlib import Path
with Path(__file__).with_name("log").open("a") as log:
    log.write(Path(__file__).stem + "\\n")
"""


@pytest.fixture
def make_step(tmp_path) -> Callable[..., Step]:
    """Makes a step whose script notes in a log that it ran, then does what its code says."""

    def make(name: str, code: str = "", holds: Callable[[Context], bool] | None = None, *arguments: str) -> Step:
        script = tmp_path / "steps" / f"{name}.py"
        script.parent.mkdir(exist_ok=True)
        script.write_text(TELLS_ITS_NAME + code)
        return Step(name, str(script), lambda options: list(arguments), holds)

    return make


@pytest.fixture
def ran(tmp_path) -> Callable[[], list[str]]:
    """The steps that ran so far, in the order in which they did."""

    def read() -> list[str]:
        log = tmp_path / "steps" / "log"
        return log.read_text().splitlines() if log.exists() else []

    return read


def test_the_steps_run_in_order_each_once(sealed, make_step, ran):
    outcome = run(sealed, [make_step(name) for name in ("c", "a", "b")])
    assert ran() == ["c", "a", "b"]
    assert [(step.name, step.state, step.exit_code) for step in outcome.steps] == [
        ("c", "done", 0),
        ("a", "done", 0),
        ("b", "done", 0),
    ]
    assert (outcome.exit_code, outcome.release_id) == (0, sealed.release().release_id)


@pytest.mark.parametrize("code", [1, 2, 3, 4, 10, 13, 14, 15, 130])
def test_the_first_step_that_does_not_pass_ends_the_run_with_its_own_exit_code(sealed, make_step, ran, code):
    outcome = run(sealed, [make_step("one"), make_step("two", f"sys.exit({code})"), make_step("three"), make_step("four")])
    assert ran() == ["one", "two"]
    assert outcome.exit_code == code
    assert [(step.name, step.state, step.exit_code) for step in outcome.steps] == [
        ("one", "done", 0),
        ("two", "stopped here", code),
        ("three", "not reached", 0),
        ("four", "not reached", 0),
    ]
    said = golive.to_text(outcome).splitlines()
    assert said[:4] == [
        "  one       done",
        f"  two       stopped here (exit {code})",
        "  three     not reached",
        "  four      not reached",
    ]
    assert f"not live: {sealed.release().release_id}; live is still nothing" in said


def test_a_step_that_crashes_is_a_bug_and_ends_the_run(sealed, make_step, ran):
    outcome = run(sealed, [make_step("one", "raise ValueError"), make_step("two")])
    assert (outcome.exit_code, ran()) == (1, ["one"])


def test_a_step_that_was_killed_can_be_tried_again(sealed, make_step, ran, capfd):
    outcome = run(sealed, [make_step("one", "os.kill(os.getpid(), 9)"), make_step("two")])
    assert (outcome.exit_code, ran()) == (13, ["one"])
    assert "was killed by signal 9" in capfd.readouterr().err


def test_a_step_whose_script_is_not_there_does_not_count_as_done(sealed, make_step, ran):
    outcome = run(sealed, [Step("one", "no_such_script.py", lambda options: []), make_step("two")])
    assert outcome.exit_code != 0
    assert (outcome.steps[0].state, ran()) == ("stopped here", [])


def test_what_a_run_did_is_written_down_with_a_report_of_it(sealed, make_step):
    outcome = run(sealed, [make_step("one"), make_step("two", "sys.exit(13)")])
    folder = sealed.workspace.evidence(sealed.release().release_id)
    written = read_json(folder / "run.json", "run")
    assert (written["exit_code"], written["live_after"]) == (13, None)
    assert [(step["name"], step["state"]) for step in written["steps"]] == [("one", "done"), ("two", "stopped here")]
    assert outcome.report == f"metrics/golive/{sealed.release().release_id}/report.html"
    assert "at the step two (exit 13)" in (folder / "report.html").read_text(encoding="utf-8")


def test_what_still_holds_is_not_done_again(sealed, make_step, ran, capfd):
    outcome = run(sealed, [make_step("one", holds=lambda context: True), make_step("two", holds=lambda context: False)])
    assert ran() == ["two"]
    assert [(step.name, step.state) for step in outcome.steps] == [("one", "held"), ("two", "done")]
    assert "[1/2] one: holds, not done again" in capfd.readouterr().err


def test_a_second_run_goes_on_where_the_first_one_stopped(sealed, make_step, ran, tmp_path):
    def once(name: str) -> Step:
        done = tmp_path / f"{name} is done"
        return make_step(name, f"Path({str(done)!r}).touch()", lambda context: done.exists())

    repaired = tmp_path / "repaired"
    steps = [once("one"), make_step("two", f"sys.exit(0 if Path({str(repaired)!r}).exists() else 13)"), once("three")]
    assert run(sealed, steps).exit_code == 13
    repaired.touch()
    assert run(sealed, steps).exit_code == 0
    assert ran() == ["one", "two", "two", "three"]


def test_a_step_is_held_against_what_the_step_before_it_left(sealed, make_step):
    seen: list[Release] = []

    def look(context: Context) -> bool:
        seen.append(context.release)
        return True

    change = (
        "import psycopg2\n"
        "connection = psycopg2.connect(os.environ['DATABASE_URL'])\n"
        "connection.cursor().execute('UPDATE golive.releases SET row_count = 99')\n"
        "connection.commit()\n"
    )
    run(sealed, [make_step("before", "", look), make_step("change", change), make_step("after", "", look)])
    assert [release.row_count for release in seen] == [3, 99]


def test_a_step_gets_its_arguments_as_they_are(sealed, make_step, tmp_path):
    told = tmp_path / "told"
    arguments = ("--cases", "a file; exit 1", "", "$HOME")
    run(sealed, [make_step("one", f"Path({str(told)!r}).write_text('|'.join(sys.argv[1:]))", None, *arguments)])
    assert told.read_text() == "--cases|a file; exit 1||$HOME"


def test_what_a_step_prints_leaves_stdout_to_the_result(sealed, make_step, capfd):
    run(sealed, [make_step("one", "print('rows and rows')")])
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "rows and rows" in captured.err
    assert "[1/1] one" in captured.err


def test_while_another_run_is_at_work_nothing_is_done_and_it_is_said_who_has_it(sealed, make_step, ran):
    before = state_of(sealed)
    with (
        lease(sealed.url, "somebody else"),
        pytest.raises(LeaseHeld, match="another run is at work: somebody else by "),
    ):
        run(sealed, [make_step("one")])
    assert ran() == []
    assert state_of(sealed) == before


def test_the_steps_share_the_runs_lease_and_nobody_else_does(sealed, make_step, tmp_path):
    told = tmp_path / "told"
    take = (
        f"sys.path.insert(0, {str(PROJECT)!r})\n"
        "from lib.platform.errors import LeaseHeld\n"
        "from lib.platform.lease import lease\n"
        "def take():\n"
        "    try:\n"
        "        with lease(os.environ['DATABASE_URL'], 'a step'):\n"
        "            return 'taken'\n"
        "    except LeaseHeld as error:\n"
        "        return error.message\n"
        "as_a_step = take()\n"
        "del os.environ['GOLIVE_LEASE']\n"
        f"Path({str(told)!r}).write_text(as_a_step + '\\n' + take())\n"
    )
    assert run(sealed, [make_step("one", take)]).exit_code == 0
    as_a_step, as_somebody = told.read_text().splitlines()
    assert as_a_step == "taken"
    assert as_somebody.startswith("another run is at work: golive by ")


def test_after_a_run_the_lease_is_free_again(sealed, make_step):
    run(sealed, [make_step("one", "sys.exit(3)")])
    with lease(sealed.url, "the next one"):
        pass


def test_an_interrupted_run_ends_with_130_tells_its_step_and_says_how_far_it_got(sealed, make_step, ran, tmp_path):
    told = tmp_path / "told"
    interrupt = (
        "import signal, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "try:\n"
        "    os.kill(os.getppid(), signal.SIGINT)\n"
        "    time.sleep(60)\n"
        "except KeyboardInterrupt:\n"
        f"    Path({str(told)!r}).write_text('ended in order')\n"
        "    sys.exit(130)\n"
    )
    outcome = run(sealed, [make_step("one"), make_step("two", interrupt), make_step("three")])
    assert outcome.exit_code == 130
    assert ran() == ["one", "two"]
    assert told.read_text() == "ended in order"
    assert "done" in golive.to_text(outcome).splitlines()[0]
    assert "goes on from here" in golive.to_text(outcome)
    assert read_json(sealed.workspace.evidence(sealed.release().release_id) / "run.json", "run")["exit_code"] == 130
    with lease(sealed.url, "the next one"):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_a_step_does_not_outlive_a_run_that_was_killed(sealed, make_step, tmp_path):
    told = tmp_path / "told"
    step = make_step("one", f"import time\nPath({str(told)!r}).write_text(str(os.getpid()))\ntime.sleep(120)\n")
    program = (
        "from pathlib import Path\n"
        "from lib.platform.postgres import database\n"
        "from lib.platform.workspace import Workspace\n"
        "from lib.release import golive\n"
        "from lib.release.steps import Options, Step\n"
        "home = Workspace.find()\n"
        "with database(home, 'test') as connection:\n"
        f"    step = Step('one', {step.script!r}, lambda options: [])\n"
        "    golive.run(home, connection, Options(None, '', home.default_cases, False), [step])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], cwd=PROJECT)
    wait_until(lambda: told.exists() and told.read_text() != "")
    process.kill()
    process.wait()
    wait_until(lambda: not is_running(int(told.read_text())))


def test_what_is_live_and_unchanged_is_left_as_it_is(live, make_step, ran):
    before = state_of(live)
    outcome = run(live, [*find(["sync", "lock"]), make_step("ingest")], corpus=live.workspace.default_corpus)
    assert (outcome.unchanged, outcome.exit_code, outcome.live_after) == (True, 0, live.live_id())
    assert ran() == []
    assert "nothing to do" in golive.to_text(outcome)
    assert state_of(live) == before


def test_a_head_of_the_audit_log_that_a_kill_kept_from_being_written_is_written_by_the_next_run(live, make_step):
    head = live.workspace.evidence(live.live_id()) / "audit_head.json"
    head.unlink()
    assert run(live, [make_step("ingest")]).unchanged
    (last,) = live.ask("SELECT seq, hash FROM golive.audit_log ORDER BY seq DESC LIMIT 1")
    assert {name: read_json(head, "head")[name] for name in last} == last


def test_stopped_queries_are_told_where_there_is_nothing_to_do(live, make_step):
    traffic.stop(live.connection, "looking into it")
    assert "queries are stopped: make resume" in golive.to_text(run(live, [make_step("ingest")]))


def test_what_is_live_and_damaged_is_not_called_sound(live, make_step, ran):
    live.tamper("DELETE FROM {table} WHERE id = 'corpus/pointer.md#0'")
    with pytest.raises(IntegrityMismatch, match="is damaged"):
        run(live, [make_step("ingest")])
    assert ran() == []


def test_other_cases_than_those_that_live_was_judged_by_are_told(live, make_step, capfd):
    assert run(live, [make_step("ingest")]).unchanged
    assert "the cases differ" not in capfd.readouterr().err
    write_cases(live.workspace.default_cases, {**CASES, "about": "one word more"})
    assert run(live, [make_step("ingest")]).unchanged
    assert "note: the cases differ" in capfd.readouterr().err


def test_nothing_locked_is_told_and_only_the_steps_that_lead_to_a_lock_have_run(workspace, connection, make_step, ran):
    project = Project(workspace, os.environ["DATABASE_URL"], connection)
    with pytest.raises(NotFound, match="no config is locked"):
        run(project, [make_step("lock"), make_step("ingest")])
    assert ran() == ["lock"]


def test_a_lock_that_is_refused_ends_the_run_before_anything_is_written(sealed, make_step, ran):
    outcome = run(
        sealed, [make_step("sync"), make_step("lock", "sys.exit(10)"), make_step("ingest")], corpus=Path("/corpus")
    )
    assert ran() == ["sync", "lock"]
    assert (outcome.exit_code, outcome.release_id) == (10, None)
    assert [step.state for step in outcome.steps] == ["done", "stopped here", "not reached"]
    assert "not live: nothing was locked; live is still nothing" in golive.to_text(outcome)
    assert not (sealed.workspace.evidence(sealed.release().release_id) / "run.json").exists()


def test_without_a_corpus_nothing_is_synced(sealed, make_step, ran):
    outcome = run(sealed, [make_step("sync"), make_step("lock"), make_step("ingest")])
    assert ran() == ["lock", "ingest"]
    assert [step.name for step in outcome.steps] == ["lock", "ingest"]


def test_the_last_step_puts_the_release_live_and_tells_the_way_back(ready):
    outcome = run(ready, find(["ingest", "evaluate", "backup", "promote"]))
    assert [(step.name, step.state) for step in outcome.steps] == [
        ("ingest", "held"),
        ("evaluate", "held"),
        ("backup", "held"),
        ("promote", "done"),
    ]
    release_id = ready.release().release_id
    assert (outcome.live_before, outcome.live_after, ready.live_id()) == (None, release_id, release_id)
    receipt = receipts.read(ready.workspace, release_id, "backup")
    assert receipt is not None
    assert golive.to_text(outcome).splitlines()[-2:] == [
        f"live: {release_id} (before: nothing)",
        f"undo: make rollback BACKUP={receipt.summary['backup_id']}",
    ]
    report = (ready.workspace.evidence(release_id) / "report.html").read_text(encoding="utf-8")
    assert "<strong>LIVE</strong>" in report


def test_a_real_step_that_refuses_leaves_what_was_live_live(second):
    first = second.live_id()
    receipts.path_of(second.workspace, second.release().release_id, "validate").unlink()
    outcome = run(second, find(["promote"]))
    assert (outcome.exit_code, outcome.live_after, second.live_id()) == (15, first, first)
    assert f"not live: {second.release().release_id}; live is still {first}" in golive.to_text(outcome)


def test_the_script_passes_on_the_exit_code_and_the_outcome(sealed, run_script):
    done = run_script("golive", "validate", "--json")
    assert done.code == 3, done.err
    assert (done.json["exit_code"], done.json["live_after"]) == (3, None)
    lock = done.json["steps"][0]
    assert (lock["name"], lock["state"], lock["exit_code"]) == ("validate", "stopped here", 3)


def test_the_script_says_who_is_at_work(sealed, run_script):
    with lease(sealed.url, "somebody else"):
        done = run_script("golive", "validate")
    assert done.code == 11
    assert "error: another run is at work: somebody else by" in done.err


def test_a_preview_tells_what_would_be_done_and_does_nothing(ready):
    sync(ready, HANDBOOK)
    before = state_of(ready)
    outcome = preview(ready)
    assert {step.name: step.state for step in outcome.steps} == {
        **dict.fromkeys(("sync", "lock", "ingest", "manifest", "evaluate", "backup"), "held"),
        **dict.fromkeys(("health", "validate", "promote"), "to do"),
    }
    assert "nothing was changed" in golive.to_text(outcome)
    assert state_of(ready) == before


def test_a_preview_of_a_changed_corpus_does_everything_anew(live):
    write_corpus(live.workspace.default_corpus, {"more.md": "# More\n\nOne more page.\n"})
    outcome = preview(live)
    assert (outcome.unchanged, outcome.live_after) == (False, live.live_id())
    assert {step.state for step in outcome.steps if step.name != "lock"} == {"to do"}


def test_a_preview_of_what_is_live_and_unchanged_would_do_nothing(live):
    outcome = preview(live)
    assert outcome.unchanged
    assert "nothing would be done" in golive.to_text(outcome)


def test_a_named_corpus_is_taken_and_its_quotes_are_looked_for(ready):
    asked = golive.read_input(ready.workspace, corpus=str(ready.workspace.default_corpus), cases=None)
    options = golive.options_for(ready.workspace, ready.connection, asked, ["corpus"], False)
    assert options == Options(ready.workspace.default_corpus, "corpus", ready.workspace.default_cases, False)


def test_a_database_of_ones_own_is_indexed_as_it_stands(ready):
    asked = golive.read_input(ready.workspace, corpus=None, cases=None)
    options = golive.options_for(ready.workspace, ready.connection, asked, ["corpus"], True)
    assert options == Options(None, "", ready.workspace.default_cases, True)


def test_a_database_without_documents_gets_the_bundled_corpus(workspace, connection):
    write_cases(workspace.default_cases)
    asked = golive.read_input(workspace, corpus=None, cases=None)
    options = golive.options_for(workspace, connection, asked, ["corpus"], False)
    assert (options.corpus, options.source) == (workspace.default_corpus, "corpus")


@pytest.mark.parametrize("with_documents", [True, False])
def test_a_quote_that_stands_nowhere_is_told_before_anything_runs(workspace, connection, database_url, with_documents):
    if with_documents:
        sync(Project(workspace, database_url, connection), HANDBOOK)
    case = {**CASES["cases"][0], "gold": [{"doc_id": "pointer.md", "quote": "This is said nowhere at all."}]}
    write_cases(workspace.default_cases, {**CASES, "cases": [case]})
    asked = golive.read_input(workspace, corpus=None, cases=None)
    with pytest.raises(ConfigInvalid, match="do not stand in the corpus exactly once"):
        golive.options_for(workspace, connection, asked, ["corpus"], False)
    with pytest.raises(ConfigInvalid, match="do not stand in the corpus exactly once"):
        golive.read_input(workspace, corpus=str(workspace.default_corpus), cases=None)


@pytest.mark.parametrize("place", ["cases", "corpus"])
def test_input_that_is_not_there_is_not_found(ready, tmp_path, place):
    with pytest.raises(NotFound):
        golive.read_input(ready.workspace, **{"corpus": None, "cases": None, place: str(tmp_path / "none")})


def test_how_a_run_ended_as_text_by_hand():
    outcome = Outcome(release_id="r2", live_before="r1", live_after="r1", exit_code=3, report="metrics/r2/report.html")
    outcome.steps = [StepOutcome("ingest", "held", 0, 0.0), StepOutcome("evaluate", "stopped here", 3, 9.0)]
    said = golive.to_text(outcome).splitlines()
    assert said[:4] == [
        "  ingest    held",
        "  evaluate  stopped here (exit 3)",
        "report: metrics/r2/report.html (beside it report.md and junit.xml)",
        "not live: r2; live is still r1",
    ]
    assert "undo" not in "\n".join(said)
    assert json.loads(json.dumps(outcome.to_dict()))["steps"][1]["exit_code"] == 3


def run(project: Project, steps: list[Step], *, corpus: Path | None = None) -> Outcome:
    options = Options(corpus, corpus.name if corpus else "", project.workspace.default_cases, False)
    return golive.run(project.workspace, project.connection, options, steps)


def preview(project: Project) -> Outcome:
    options = Options(project.workspace.default_corpus, "corpus", project.workspace.default_cases, False)
    names = ["sync", "lock", "ingest", "manifest", "health", "evaluate", "backup", "validate", "promote"]
    return golive.preview(project.workspace, project.connection, options, find(names))


def state_of(project: Project) -> dict[str, Any]:
    """Every file of the project but the tests' own scripts, and every row that a run may change."""
    tables = ("documents", *(f"golive.{name}" for name in ("pointer", "releases", "verdicts", "backups", "audit_log")))
    rows: dict[str, Any] = {name: project.ask(f"SELECT * FROM {name} ORDER BY 1") for name in tables}
    files = files_below(project.workspace.root).items()
    return {**rows, "files": {name: content for name, content in files if not name.startswith("steps/")}}


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(so: Callable[[], bool]) -> None:
    for _ in range(600):
        if so():
            return
        time.sleep(0.1)
    raise AssertionError("it did not come to that within a minute")
