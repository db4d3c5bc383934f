"""What every benchmark shares: alternating runs, the JSON form of a result, and the table that people read.

A benchmark is a module ``tests/benchmarks/bench_<name>.py`` with a docstring and ``run() -> list[Comparison]``. Each
comparison is one row of the table; all comparisons of a benchmark stand in ``metrics/benchmarks/<name>.json``.
"""

from __future__ import annotations

import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib.platform.files import write_json

PROJECT = Path(__file__).resolve().parents[2]
RESULTS = PROJECT / "metrics" / "benchmarks"
SHARED_DATA = PROJECT.parent / "shared" / "data"


@dataclass(frozen=True)
class Run:
    """One run of one system: its wall-clock seconds, or for a quality its ``value``, and what else it showed."""

    system: str
    seconds: float | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {"system": self.system, "seconds": self.seconds, **self.facts}


@dataclass(frozen=True)
class Comparison:
    """``ratio`` > 1 where ours is better; ``target`` is the least ratio that is asked for, None where nothing is."""

    name: str
    ratio: float
    target: float | None
    against: str
    runs: Sequence[Run]

    @property
    def reached(self) -> bool | None:
        return None if self.target is None else self.ratio >= self.target

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "ratio": self.ratio,
            "target": self.target,
            "against": self.against,
            "runs": [run.to_dict() for run in self.runs],
            "machine": machine(),
        }


def alternate(systems: Mapping[str, Callable[[], Any]], rounds: int = 3) -> list[Run]:
    """Times each system once a round, in turn, so that a slow spell of the machine meets all of them.

    What a system returns, where it is a mapping, becomes the facts of its run.
    """
    runs = []
    for _ in range(rounds):
        for system, work in systems.items():
            started = time.perf_counter()
            facts = work()
            runs.append(Run(system, time.perf_counter() - started, facts if isinstance(facts, Mapping) else {}))
    return runs


def median_s(runs: Sequence[Run], system: str) -> float:
    """The median of a system's seconds."""
    return statistics.median(run.seconds for run in runs if run.system == system and run.seconds is not None)


def fastest(runs: Sequence[Run], systems: Sequence[str]) -> str:
    """The system with the smallest median."""
    return min(systems, key=lambda system: median_s(runs, system))


def cpu_s() -> float:
    """The processor time of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def memory_mib(name: str) -> float:
    """From the kernel's account of this process, which, unlike getrusage, starts afresh with the program."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "python": platform.python_version(),
        "system": platform.system(),
    }


def write(name: str, comparisons: Sequence[Comparison]) -> Path:
    """Writes ``metrics/benchmarks/<name>.json``: the first comparison, with all of them under ``comparisons``."""
    path = RESULTS / f"{name}.json"
    rows = [comparison.to_dict() for comparison in comparisons]
    write_json(path, {**rows[0], "name": name, "comparisons": rows})
    return path


def to_text(comparisons: Sequence[Comparison]) -> str:
    """A line a comparison, and under it the median of each system."""
    lines = []
    for item in comparisons:
        state = {None: "", True: "  reached", False: "  MISSED"}[item.reached]
        target = "" if item.target is None else f" (target {item.target:g})"
        lines.append(f"{item.name}: {item.ratio:.2f}x against {item.against}{target}{state}")
        for system in dict.fromkeys(run.system for run in item.runs):
            mine = [run for run in item.runs if run.system == system]
            seconds = f"{median_s(mine, system):10.3f} s" if mine[0].seconds is not None else " " * 12
            facts = "  ".join(f"{key} {_shown(value)}" for key, value in mine[-1].facts.items())
            lines.append(f"  {system:<28}{seconds}  {facts}")
    return "\n".join(lines)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()
