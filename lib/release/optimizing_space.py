"""What a search may change: the values of ``configs/search.yaml`` over the candidate, each checked as one of its own."""

from __future__ import annotations

import copy
import itertools
import math
import os
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from lib.config import layers
from lib.config.locked_config import LockedConfig
from lib.platform.errors import ConfigInvalid
from lib.platform.files import digest_of
from lib.platform.workspace import Workspace
from lib.release import locking

# What a built table depends on, of all that may be searched; trials that differ in the rest alone share a table.
_BUILD = (
    "chunk_size",
    "overlap_ratio",
    "jaccard_threshold",
    "prefix_policy",
    "retrieval.bm25_k1",
    "retrieval.bm25_b",
    "retrieval.hnsw_m",
    "retrieval.hnsw_ef_construction",
)
_WHENEVER = datetime(2000, 1, 1, tzinfo=UTC)
_ENUMERATED = 5000
_DRAWS = 1000

Values = dict[str, Any]


@dataclass(frozen=True)
class Parameter:
    """A dotted key of the candidate and its values: in ascending order where they are numbers."""

    name: str
    values: tuple[Any, ...]
    where: str

    @property
    def ordered(self) -> bool:
        return all(isinstance(value, (int, float)) for value in self.values)


@dataclass(frozen=True)
class Space:
    """The candidate as it stands, and what may be changed of it. A point is a value for each parameter's name."""

    base: locking.Candidate
    parameters: tuple[Parameter, ...]

    @property
    def size(self) -> int:
        """How many points there are, also those that no config can have."""
        return math.prod(len(parameter.values) for parameter in self.parameters)

    @property
    def base_point(self) -> Values:
        return {parameter.name: value_of(self.base.layered.values, parameter.name) for parameter in self.parameters}

    @property
    def digest(self) -> str:
        return digest_of({parameter.name: list(parameter.values) for parameter in self.parameters})

    def settled(self, point: Mapping[str, Any]) -> Values:
        """The point with the candidate's value wherever the rest of it makes a parameter meaningless."""
        values = over(self.base.layered.values, point)
        found, base = dict(point), self.base_point
        fusion, model = value_of(values, "retrieval.fusion"), value_of(values, "rerank.model")
        if fusion != "rrf" and "retrieval.rrf_k" in found:
            found["retrieval.rrf_k"] = base["retrieval.rrf_k"]
        if fusion == "rrf" and model == "none" and "retrieval.vector_weight" in found:
            found["retrieval.vector_weight"] = base["retrieval.vector_weight"]
        return found

    def candidate(self, point: Mapping[str, Any]) -> locking.Candidate:
        """The candidate with a point's values; raises ConfigInvalid where no config can have them together."""
        layered = layers.Layered(over(self.base.layered.values, point), dict(self.base.layered.origins))
        layered.origins.update({parameter.name: parameter.where for parameter in self.parameters})
        return locking.check_candidate(layered, self.base.embedder)

    def allows(self, point: Mapping[str, Any]) -> bool:
        try:
            self.candidate(point)
        except ConfigInvalid:
            return False
        return True

    def any_unseen(self, seen: set[str], chance: random.Random) -> Values | None:
        """A point whose key is not in ``seen``; None where there is none, or hardly one."""
        points = list(self._all()) if self.size <= _ENUMERATED else None
        if points is not None:
            chance.shuffle(points)
        for point in points if points is not None else (self._drawn(chance) for _ in range(_DRAWS)):
            settled = self.settled(point)
            if key_of(settled) not in seen and self.allows(settled):
                return settled
        return None

    def _all(self) -> Iterator[Values]:
        names = [parameter.name for parameter in self.parameters]
        for values in itertools.product(*(parameter.values for parameter in self.parameters)):
            yield dict(zip(names, values, strict=True))

    def _drawn(self, chance: random.Random) -> Values:
        return {parameter.name: chance.choice(parameter.values) for parameter in self.parameters}


def read(workspace: Workspace) -> tuple[Space, dict[str, Any]]:
    """The space, and the other values of ``configs/search.yaml``.

    Raises:
        ConfigInvalid: naming file and line; also where the candidate could not have a value, where there is nothing to
            choose between, or where another layer than ``configs/candidate.yaml`` decides what is searched.
    """
    environment = layers.environment_name(workspace, os.environ)
    search = layers.load(workspace, "search", environment=environment)
    base = locking.read_candidate(workspace)
    found = Space(base, tuple(_parameters(base, search)))
    home = f"{workspace.show(workspace.configs / 'candidate.yaml')}:"
    for parameter in found.parameters:
        if not base.layered.where(parameter.name).startswith(home):
            raise ConfigInvalid(
                f"{parameter.where}: {parameter.name} is searched, but {base.layered.where(parameter.name)} decides it",
                hint="what is found goes into configs/candidate.yaml: unset it there, or leave it out of the search",
            )
        for value in parameter.values:
            _check_value(found, parameter, value)
    if found.size == 1:
        raise ConfigInvalid(f"{search.where('space')}: space holds one config alone: there is nothing to choose between")
    return found, search.values


def lock(candidate: locking.Candidate) -> LockedConfig:
    """The config of a trial; when it is made decides nothing of it."""
    return locking.freeze(candidate, moment=_WHENEVER, ordinal=1, baseline_metrics={})


def key_of(point: Mapping[str, Any]) -> str:
    return digest_of(dict(point))


def build_key(point: Mapping[str, Any]) -> str:
    """What points have in common that can share a table."""
    return digest_of({name: value for name, value in point.items() if name in _BUILD})


def value_of(values: Mapping[str, Any], dotted: str) -> Any:
    found: Any = values
    for part in dotted.split("."):
        found = found[part]
    return found


def _parameters(base: locking.Candidate, search: layers.Layered) -> Iterator[Parameter]:
    for name, values in _leaves(search.values["space"]):
        own = value_of(base.layered.values, name)
        every = values if own in values else [*values, own]
        if all(isinstance(value, (int, float)) for value in every):
            every = sorted(every)
        yield Parameter(name, tuple(every), search.where(f"space.{name}"))


def _leaves(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, list[Any]]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _check_value(space: Space, parameter: Parameter, value: Any) -> None:
    """Raises ConfigInvalid where no config has this value: with the rest of it as it is, nor with all lowest or highest."""
    problems = []
    for others in ({}, _at(space, 0), _at(space, -1)):
        try:
            space.candidate({**space.base_point, **others, parameter.name: value})
            return
        except ConfigInvalid as error:
            problems.append(error)
    first = problems[0]
    named = first.message if parameter.where in first.message else f"{parameter.where}: {first.message}"
    raise ConfigInvalid(f"{named} (searched: {value})", detail=first.detail, hint=first.hint) from first


def _at(space: Space, end: int) -> Values:
    return {parameter.name: parameter.values[end] for parameter in space.parameters if parameter.ordered}


def over(values: Mapping[str, Any], point: Mapping[str, Any]) -> dict[str, Any]:
    """A candidate's values with a point's in their places."""
    found = copy.deepcopy(dict(values))
    for dotted, value in point.items():
        *path, last = dotted.split(".")
        place = found
        for part in path:
            place = place[part]
        place[last] = value
    return found
