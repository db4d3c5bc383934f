"""A study: what was tried and measured, in a file of its own, and what Optuna makes of it: the next point, and the front.

The file is the truth, and Optuna's study is filled from it anew. Its sampler is seeded by the number of trials that are
done, so that a search which was killed goes on as one that was not. Optuna's own journal cannot be read any more once a
kill has cut a line of it short, and no storage of it keeps a sampler's state.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lib.platform.errors import LeaseHeld, Refused
from lib.platform.files import canonical_json, read_json, write_bytes, write_json, writing
from lib.release.optimizing_space import Parameter, Space, Values, key_of

_TRIES = 8  # of the sampler, for a point that is new
_STARTUP = 10  # trials by chance before the sampler has something to learn from


@dataclass(frozen=True)
class Trial:
    """One point with what was measured; ``reason`` says why nothing was. Number 0 is the candidate as it stands."""

    number: int
    values: Values
    config_hash: str
    quality: float | None = None
    latency_ratio: float | None = None
    latency_ms: float | None = None
    index_bytes: int | None = None
    rows: int | None = None
    unscored: int = 0
    built: bool = False
    embedded: int = 0
    seconds: float = 0.0
    reason: str = ""

    @property
    def objectives(self) -> tuple[float, float, float] | None:
        """Quality, latency and index size; None where the trial failed."""
        if self.quality is None or self.latency_ratio is None or self.index_bytes is None:
            return None
        return (self.quality, self.latency_ratio, float(self.index_bytes))


@dataclass
class Study:
    """The trials of one search, in ``folder``; ``identity`` names by digests all that decides what a trial measures."""

    folder: Path
    identity: dict[str, str]
    trials: list[Trial] = field(default_factory=list)

    @property
    def base(self) -> Trial | None:
        return self.trials[0] if self.trials else None

    def record(self, trial: Trial) -> None:
        """Appends a trial, on disk when this returns."""
        with writing(self.folder / "trials.jsonl"), (self.folder / "trials.jsonl").open("ab") as stream:
            stream.write(canonical_json(asdict(trial)) + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        self.trials.append(trial)


def read(folder: Path, identity: dict[str, str]) -> Study:
    """The study in a folder, empty where there is none yet; a last line that a kill cut short counts for nothing.

    Raises:
        Refused: it belongs to another search: the parts that differ are named.
    """
    if not (folder / "study.json").exists():
        return Study(folder, identity)
    recorded = read_json(folder / "study.json", "study")
    if differing := [name for name in identity if recorded.get(name) != identity[name]]:
        raise Refused(
            f"the study in {folder.name} is another search's",
            detail=f"different now: {', '.join(differing)}",
            hint="leave --study out, or give it another name",
        )
    return Study(folder, identity, [Trial(**json.loads(line)) for line in _whole_lines(folder / "trials.jsonl")])


@contextmanager
def opened(folder: Path, identity: dict[str, str]) -> Iterator[Study]:
    """The study, while no other process works on it.

    Raises:
        LeaseHeld: another one does. Refused: as ``read``.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LeaseHeld(f"another search works on the study {folder.name}", hint="wait until it ends") from error
        found = read(folder, identity)
        write_json(folder / "study.json", identity)
        write_bytes(folder / "trials.jsonl", b"".join(line + b"\n" for line in _whole_lines(folder / "trials.jsonl")))
        yield found
    finally:
        os.close(handle)


def _whole_lines(path: Path) -> list[bytes]:
    """The lines of the file that have an end."""
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


def next_point(space: Space, trials: Sequence[Trial], seed: int) -> Values | None:
    """The next point to try, by Optuna's TPE over all objectives; None where there is none left.

    The space, the seed and the trials alone decide it. Where the sampler asks for what was tried, one is drawn by chance.
    """
    import optuna

    study, _ = _filled(space, trials)
    distributions = {parameter.name: _distribution(parameter) for parameter in space.parameters}
    seen = {key_of(trial.values) for trial in trials}
    chance = random.Random(f"{seed} {len(trials)}")
    for _ in range(_TRIES):
        study.sampler = optuna.samplers.TPESampler(seed=chance.getrandbits(32), n_startup_trials=_STARTUP)
        asked = study.ask(fixed_distributions=distributions)
        study.tell(asked, state=optuna.trial.TrialState.FAIL)  # known when it is measured; the sampler passes it over
        point = space.settled({p.name: _value(p, asked.params[p.name]) for p in space.parameters})
        if key_of(point) not in seen and space.allows(point):
            return point
    return space.any_unseen(seen, chance)


def front(space: Space, trials: Sequence[Trial]) -> list[Trial]:
    """The trials that no other one is better than in one objective and as good as in all, the best quality first."""
    study, filled = _filled(space, trials)
    best = [filled[found.number] for found in study.best_trials]
    return sorted(best, key=_order)


def choose_winner(found: Sequence[Trial], base: Trial, *, latency_ratio: float, index_ratio: float) -> Trial | None:
    """The trial of the front with the best quality within the limits; None where that is the base itself.

    Ties go to the faster, then the smaller, then the earlier one.
    """
    assert base.index_bytes is not None, "a search without its base measures nothing"
    within = [
        trial
        for trial in found
        if trial.objectives
        and trial.objectives[1] <= latency_ratio
        and trial.objectives[2] <= index_ratio * base.index_bytes
    ]
    best = min(within, key=_order, default=base)
    return None if best.number == base.number else best


def _order(trial: Trial) -> tuple[float, float, float, int]:
    assert trial.objectives is not None
    quality, latency, size = trial.objectives
    return (-quality, latency, size, trial.number)


def _filled(space: Space, trials: Sequence[Trial]) -> tuple[Any, list[Trial]]:
    """An Optuna study of the trials that were measured, and these in its order."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        directions=["maximize", "minimize", "minimize"], sampler=optuna.samplers.RandomSampler(seed=0)
    )
    distributions = {parameter.name: _distribution(parameter) for parameter in space.parameters}
    measured = [trial for trial in trials if trial.objectives]
    for trial in measured:
        params = {parameter.name: _param(parameter, trial.values[parameter.name]) for parameter in space.parameters}
        study.add_trial(
            optuna.trial.create_trial(params=params, distributions=distributions, values=list(trial.objectives or ()))
        )
    return study, measured


def _distribution(parameter: Parameter) -> Any:
    """Numbers by their place in ascending order, so that neighbours are known as such; all else as mere choices."""
    from optuna.distributions import CategoricalDistribution, IntDistribution

    if parameter.ordered:
        return IntDistribution(0, len(parameter.values) - 1)
    return CategoricalDistribution(parameter.values)


def _param(parameter: Parameter, value: Any) -> Any:
    return parameter.values.index(value) if parameter.ordered else value


def _value(parameter: Parameter, param: Any) -> Any:
    return parameter.values[param] if parameter.ordered else param
