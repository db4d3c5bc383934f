"""Choosing a config: a search on training cases, its Pareto front as candidates, and the gate's word on held-out cases.

Nothing is promoted or locked: what is written lies below ``metrics/optimize`` and in the embedding cache.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psycopg2.extensions import connection as Connection

from lib.evaluation import cases as case_files
from lib.evaluation import gate, results, run
from lib.evaluation.settings import EvaluationSettings
from lib.index import shadow
from lib.index.documents import Document
from lib.index.embedder import load_embedder
from lib.platform.errors import Refused, Unavailable, UsageError
from lib.platform.files import digest_of, read_json
from lib.platform.progress import Progress, muted, note
from lib.platform.workspace import Workspace
from lib.release import assessment, optimizing_split, optimizing_study, scratch
from lib.release.gates import load_gates
from lib.release.ingesting import builder
from lib.release.optimizing_space import Space, lock, read
from lib.release.optimizing_split import Split
from lib.release.optimizing_study import Study, Trial
from lib.release.optimizing_trials import Bench, Tables, widen_buffers

_STUDY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ALIKE = 5  # failures in a row with one reason: the rest would fail too


@dataclass(frozen=True)
class Budget:
    """How many trials there may be, the candidate's own not counted, and how long a run may begin new ones."""

    trials: int
    timeout_s: float


@dataclass(frozen=True)
class Plan:
    """A search that could be run, or gone on with."""

    space: Space
    search: dict[str, Any]
    budget: Budget
    seed: int
    settings: EvaluationSettings
    gates: dict[str, Any]
    cases_path: Path
    documents: list[Document]
    split: Split
    identity: dict[str, str]
    folder: Path
    done: int

    def to_dict(self, workspace: Workspace) -> dict[str, Any]:
        return {
            "study": self.folder.name,
            "folder": workspace.show(self.folder),
            "trials": self.budget.trials,
            "trials_done": self.done,
            "timeout_s": self.budget.timeout_s,
            "seed": self.seed,
            "quality": self.search["objectives"]["quality"],
            "space": {parameter.name: list(parameter.values) for parameter in self.space.parameters},
            "configs": self.space.size,
            "documents": len(self.documents),
            "training": self.split.training.to_dict(),
            "held_out": self.split.held_out.to_dict(),
        }

    def to_text(self, workspace: Workspace) -> str:
        lines = [
            f"would try {self.budget.trials} of {self.space.size} configs, of which {self.done} are tried already,"
            f" by {self.search['objectives']['quality']}, latency and index size",
            *(f"  {parameter.name}: {', '.join(map(str, parameter.values))}" for parameter in self.space.parameters),
            parts_text(self.split),
            f"study: {workspace.show(self.folder)}",
        ]
        return "\n".join(lines)


@dataclass(frozen=True)
class Outcome:
    """What a search found. ``verdict`` is the gate's on the held-out cases, as its file holds it; None without a winner.

    ``held_out``: the winner's and the base's quality there. ``looks``: how many configs these cases have judged by now.
    """

    trials: list[Trial]
    front: list[Trial]
    winner: Trial | None
    verdict: dict[str, Any] | None
    held_out: tuple[float | None, float | None]
    looks: int

    @property
    def word(self) -> str:
        """The verdict; INCONCLUSIVE where no trial is better than what is there."""
        return str(self.verdict["verdict"]) if self.verdict else "INCONCLUSIVE"


def plan(
    workspace: Workspace,
    connection: Connection,
    settings: EvaluationSettings,
    *,
    cases_path: Path,
    trials: int | None = None,
    timeout_s: float | None = None,
    seed: int | None = None,
    study: str | None = None,
) -> Plan:
    """What a search would do; defaults are those of ``configs/search.yaml`` and the deterministic environment.

    Raises:
        UsageError: no trials or no time. Refused: too few cases, or a study of another search.
        ConfigInvalid, NotFound: space, candidate, cases, documents.
    """
    space, search = read(workspace)
    budget = Budget(_given(trials, search["budget"]["trials"]), _given(timeout_s, search["budget"]["timeout_s"]))
    if budget.trials < 1 or not budget.timeout_s > 0:
        raise UsageError("--trials and --timeout must be over 0")
    if study is not None and not _STUDY_NAME.fullmatch(study):
        raise UsageError(f"{study!r} cannot be the name of a study", hint="letters, digits, dots, - and _")
    config, gates = lock(space.base), load_gates(workspace)
    file = case_files.load(cases_path)
    documents, corpus = shadow.read_corpus(connection, config)
    share = search["split"]["held_out_share"]
    split = optimizing_split.split(file, case_files.resolve(file, documents, config.sources), share)
    optimizing_split.require_enough(split, share, cases=gates["min_cases"], documents=gates["min_documents"])
    seed = _given(seed, settings.determinism.seed)
    identity = _identity(space, search, split, settings, seed, corpus)
    folder = workspace.root / "metrics" / "optimize" / (study or digest_of(identity)[:12])
    return Plan(
        space=space,
        search=search,
        budget=budget,
        seed=seed,
        settings=settings,
        gates=gates,
        cases_path=cases_path,
        documents=documents,
        split=split,
        identity=identity,
        folder=folder,
        done=max(0, len(optimizing_study.read(folder, identity).trials) - 1),
    )


def _identity(
    space: Space, search: dict[str, Any], split: Split, settings: EvaluationSettings, seed: int, corpus: str
) -> dict[str, str]:
    """Digests of all that decides what a trial measures, and which one comes next. The held-out cases are not among it."""
    return {
        "space": space.digest,
        "candidate": lock(space.base).config_hash,
        "training cases": split.training.file.digest,
        "documents": corpus,
        "evaluation settings": settings.digest,
        "objectives": digest_of(search["objectives"]),
        "seed": str(seed),
        "code and packages": digest_of([run.code_digest(), run.package_versions()]),
    }


def optimize(workspace: Workspace, connection: Connection, planned: Plan) -> Outcome:
    """Searches, or goes on with a search, then lets the gate judge the best of the front on the held-out cases.

    Args:
        connection: with a session of its own, which holds the temporary tables.

    Raises:
        LeaseHeld: another process works on this study. Refused: a pooler, or no time for one trial.
        Unavailable: no trial could be measured.
    """
    scratch.require_own_session(connection, "a search")
    study_of = optimizing_study.opened(planned.folder, planned.identity)
    with study_of as study, _bench(workspace, connection, planned) as bench:
        search(study, bench, planned)
        base = study.trials[0]
        front = optimizing_study.front(planned.space, study.trials)
        winner = optimizing_study.choose_winner(front, base, **planned.search["limits"])
        verdict, held_out = _judge(workspace, bench.tables, planned, winner) if winner else (None, (None, None))
        return Outcome(list(study.trials), front, winner, verdict, held_out, _looks(planned))


def search(study: Study, bench: Bench, planned: Plan) -> None:
    """Trials until the budget is used up or nothing is left to try; each is on disk before the next one begins."""
    deadline = time.monotonic() + planned.budget.timeout_s
    if study.base is None:
        note("the candidate as it stands is measured first")
        with muted():
            study.record(bench.measure(0, planned.space.base_point))
        note(_line(study.trials[0]))
    else:
        with muted():
            bench.tables.release(planned.space, planned.space.base_point, "base")
    with Progress("searching", planned.budget.trials, "trials") as progress:
        progress.advance(len(study.trials) - 1)
        while len(study.trials) <= planned.budget.trials and time.monotonic() < deadline:
            point = optimizing_study.next_point(planned.space, study.trials, planned.seed)
            if point is None:
                note("every config of the space was tried")
                break
            with muted():
                study.record(bench.measure(len(study.trials), point))
            note(_line(study.trials[-1]))
            progress.advance()
            _require_hope(study)
    _require_some(study, planned)


@contextmanager
def _bench(workspace: Workspace, connection: Connection, planned: Plan) -> Iterator[Bench]:
    config = lock(planned.space.base)
    widen_buffers(connection)
    with builder(workspace, config, planned.documents) as tools:
        yield Bench(
            workspace=workspace,
            connection=connection,
            space=planned.space,
            tables=Tables(connection, planned.documents, scratch.remembering(tools), planned.search["budget"]["tables"]),
            embedder=load_embedder(workspace, config),
            training=planned.split.training,
            settings=planned.settings,
            objectives=planned.search["objectives"],
        )


def _judge(
    workspace: Workspace, tables: Tables, planned: Plan, winner: Trial
) -> tuple[dict[str, Any], tuple[float | None, float | None]]:
    """The gate's verdict on the winner beside the base, on the held-out cases; written to ``held_out/`` of the study."""
    folder = planned.folder / "held_out"
    found: dict[str, results.Evaluation] = {}
    for name, values in (("base", planned.space.base_point), ("winner", winner.values)):
        shown = f"trial {winner.number}" if name == "winner" else "the candidate as it stands"
        note(f"held-out cases: {shown}")
        release, _, _ = tables.release(planned.space, values, shown)
        place = folder / (f"{winner.number:02d}" if name == "winner" else name)
        cases = planned.split.held_out.file
        found[name] = scratch.evaluate(workspace, tables.connection, release, cases, planned.settings, place)
    decided = gate.judge_gate(found["winner"], found["base"], planned.gates, planned.settings.determinism.seed)
    content = {
        **assessment.content_of(workspace, found["winner"], planned.cases_path, planned.gates, decided),
        "config_hash": winner.config_hash,
    }
    assessment.write(folder / f"{winner.number:02d}", content)
    metric = planned.search["objectives"]["quality"]
    return content, (found["winner"].summary["metrics"][metric], found["base"].summary["metrics"][metric])


def _looks(planned: Plan) -> int:
    """How many configs these very cases have judged, in any study: each one makes the next verdict worth a little less."""
    seen = set()
    for path in planned.folder.parent.glob("*/held_out/*/verdict.json"):
        content = read_json(path, "verdict")
        if content["inputs"]["cases_digest"] == planned.split.held_out.file.digest:
            seen.add(content["config_hash"])
    return len(seen)


def _require_hope(study: Study) -> None:
    """Raises Unavailable where the last trials all failed alike: a service is gone, and the rest of the budget with it."""
    reasons = {trial.reason for trial in study.trials[-_ALIKE:]}
    if len(study.trials) > _ALIKE and len(reasons) == 1 and (reason := reasons.pop()):
        raise Unavailable(
            f"the last {_ALIKE} trials failed alike", detail=reason, hint="the same command goes on with other configs"
        )


def _require_some(study: Study, planned: Plan) -> None:
    tried = study.trials[1:]
    if not tried:
        raise Refused(
            f"the time was up before one trial began: the candidate alone took {study.trials[0].seconds:g} s",
            hint=f"a longer --timeout than {planned.budget.timeout_s:g}; the same command goes on from here",
        )
    if not any(trial.objectives for trial in tried):
        raise Unavailable(f"none of {len(tried)} trials could be measured", detail=tried[-1].reason)


def _line(trial: Trial) -> str:
    changed = " ".join(f"{name.rpartition('.')[2]}={value}" for name, value in sorted(trial.values.items()))
    name = f"trial {trial.number}" if trial.number else "the candidate"
    if trial.objectives is None:
        return f"{name} failed: {trial.reason} ({changed})"
    quality, latency, size = trial.objectives
    return f"{name}: {quality:.3f}, {latency:.2f}x, {size / 1e6:.1f} MB, {trial.seconds:.0f} s ({changed})"


def parts_text(split: Split) -> str:
    parts = (("training", split.training), ("held-out", split.held_out))
    return "; ".join(
        f"{name}: {len(part.cases)} cases, {part.answerable} of them answerable, about {part.documents} documents"
        for name, part in parts
    )


def _given(value: Any, default: Any) -> Any:
    return default if value is None else value
