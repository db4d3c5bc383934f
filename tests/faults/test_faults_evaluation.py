"""The evaluation, killed at every place that is named in it and at random moments."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lib.evaluation import results
from lib.evaluation import settings as evaluation_settings
from lib.platform import postgres
from lib.platform.errors import GoliveError
from lib.platform.lease import lease
from lib.release import assessment
from tests.conftest import Finished
from tests.faults import invariants, killing
from tests.faults.forking import Forked
from tests.faults.killing import KILLED
from tests.release.evaluated import evaluated
from tests.release.staged import Project

__all__ = ["evaluated"]
_PLACES = [name for name in killing.names_in_code() if name.startswith("evaluate.")]
# where a kill can do harm; a longer run dies at all of them
_SHORT = {"evaluate.metrics", "evaluate.record"}
_SEED = 20261126


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "place" in metafunc.fixturenames:
        every = metafunc.config.getoption("--fault-rounds") > 1
        metafunc.parametrize("place", [place for place in _PLACES if every or place in _SHORT])


@pytest.fixture
def before(evaluated: Project) -> Iterator[invariants.Before]:
    """The state before; the verdict that the fixture's evaluation left does not count."""
    evaluated.execute("DELETE FROM golive.verdicts")
    yield invariants.Before.of(evaluated.url, evaluated.live_id())


@pytest.mark.fault("evaluate.kill")
def test_an_evaluation_that_was_killed_leaves_none_that_is_half_and_the_next_ends_in_the_same_bytes(
    place: str, evaluated: Project, before: invariants.Before, rounds: int, tmp_path: Path
) -> None:
    folder = evaluated.workspace.evidence(evaluated.release().release_id)
    wanted = results.read(folder / "evaluation").digest
    process = _start(evaluated, **killing.at(place))
    assert killing.finish(process).code == KILLED, f"{place} was never reached"
    _check(evaluated, before, folder)
    done = killing.finish(_start(evaluated))
    assert done.code == 0, done
    _check(evaluated, before, folder)
    _ended(evaluated, folder, wanted, done)


@pytest.mark.fault("evaluate.random")
def test_an_evaluation_that_was_killed_at_some_moment_is_done_again(
    evaluated: Project, before: invariants.Before, rounds: int
) -> None:
    folder = evaluated.workspace.evidence(evaluated.release().release_id)
    wanted = results.read(folder / "evaluation").digest
    started = time.monotonic()
    assert killing.finish(_start(evaluated)).code == 0
    whole_s = time.monotonic() - started
    chosen = random.Random(_SEED)
    for _ in range(rounds):
        process = _start(evaluated)
        time.sleep(chosen.uniform(0.05, 0.95) * whole_s)
        process.kill()
        assert killing.finish(process).code in (KILLED, 0)
        _check(evaluated, before, folder)
    done = killing.finish(_start(evaluated))
    _check(evaluated, before, folder)
    _ended(evaluated, folder, wanted, done)


def _start(project: Project, **environment: str) -> Forked:
    """As scripts/production_evaluation.py --skip-ingest does it."""

    def work() -> None:
        with lease(project.url, "production_evaluation"):
            connection = postgres.connect(project.url, "evaluation")
            settings = evaluation_settings.load(project.workspace)
            assessment.assess(project.workspace, connection, cases_path=project.workspace.default_cases, settings=settings)

    return Forked(work, environment)


def _check(project: Project, before: invariants.Before, folder: Path) -> None:
    """Every invariant; an evaluation that can be read is whole, and a verdict on record has the evidence that it names."""
    invariants.check(project.workspace, project.url, before)
    try:
        evaluation = results.read(folder / "evaluation")
        assert evaluation.summary["counts"]
    except GoliveError:
        evaluation = None
    for row in project.ask("SELECT metrics_digest FROM golive.verdicts ORDER BY verdict_id DESC LIMIT 1"):
        stands = assessment.stands(
            project.workspace, project.connection, project.release(), project.workspace.default_cases
        )
        assert not stands or (evaluation is not None and evaluation.digest == row["metrics_digest"])


def _ended(project: Project, folder: Path, wanted: str, done: Finished) -> None:
    assert done.code == 0, done
    assert results.read(folder / "evaluation").digest == wanted
    assert assessment.stands(project.workspace, project.connection, project.release(), project.workspace.default_cases)
