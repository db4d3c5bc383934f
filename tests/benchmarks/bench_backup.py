"""A backup of 50,000 chunks (384 dimensions, 2 KB of text): ours against pg_dump.

Ours is timed twice: until its files are on disk, which is what pg_dump does, and with the proof, a restore into fresh ones
whose rows are digested. Both hold the chunk table and its postings; ours documents and Golive's state too.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import zstandard

from lib.platform import embedded
from lib.release import backup
from tests.benchmarks.harness import PROJECT, Comparison, Run, alternate, fastest, median_s
from tests.benchmarks.large_release import Server, server

ROWS, FEW = 50_000, 5_000
OURS, PROVEN, DEFAULT, PIPED = "ours, files on disk", "ours, with the proof", "pg_dump -Fc", "pg_dump | zstd -3"
_PEERS = {
    DEFAULT: ["-Fc"],
    "pg_dump -Fc -Z1": ["-Fc", "-Z1"],
    "pg_dump -Fd -j2 -Z1": ["-Fd", "-j2", "-Z1"],
    "pg_dump -Fd -j2": ["-Fd", "-j2"],
}


def run() -> list[Comparison]:
    with server(ROWS) as place:
        peers = {name: _dump(place, options) for name, options in _PEERS.items()}
        runs = alternate({PROVEN: lambda: _ours(place), **peers, PIPED: lambda: _piped(place)})
        peak_mib = _peak_mib()
    runs += [Run(OURS, run.facts["files_s"], {"mib": run.facts["mib"]}) for run in runs if run.system == PROVEN]
    with server(FEW):
        few_mib = _peak_mib()
    ours_mib = _mib(runs, OURS)
    dumps = [*_PEERS, PIPED]
    no_larger = [name for name in dumps if _mib(runs, name) <= ours_mib * 1.01]
    quickest = fastest(runs, no_larger or dumps)
    return [
        _compared(runs, "backup, speed", median_s(runs, DEFAULT) / median_s(runs, OURS), 15, DEFAULT, (OURS, DEFAULT)),
        _compared(runs, "backup, size", _mib(runs, DEFAULT) / ours_mib, 1 / 0.85, DEFAULT, (OURS, DEFAULT)),
        _compared(
            runs,
            "backup, speed against the fastest dump" + (" that is no larger" if no_larger else " (all are larger)"),
            median_s(runs, quickest) / median_s(runs, OURS),
            1,
            quickest,
            (OURS, *dumps),
        ),
        _compared(
            runs,
            "backup with its proof, speed",
            median_s(runs, DEFAULT) / median_s(runs, PROVEN),
            None,
            DEFAULT,
            (PROVEN, DEFAULT),
        ),
        Comparison(
            "backup, memory of a tenth of the rows over that of all",
            few_mib / peak_mib,
            0.67,
            f"the script with {FEW} chunks",
            [Run("50,000 chunks", None, {"peak_mib": peak_mib}), Run("5,000 chunks", None, {"peak_mib": few_mib})],
        ),
    ]


def _compared(
    runs: list[Run], name: str, ratio: float, target: float | None, against: str, shown: tuple[str, ...]
) -> Comparison:
    return Comparison(name, ratio, target, against, [run for run in runs if run.system in shown])


def _ours(place: Server) -> Mapping[str, Any]:
    made = backup.create(place.workspace, place.connection)
    proof_s = made.manifest["proven"]["seconds"]
    facts = {
        "files_s": made.manifest["seconds"] - proof_s,
        "proof_s": proof_s,
        "mib": made.bytes / 2**20,
        "rto_load_s": made.manifest["rto"]["load_s"],
    }
    shutil.rmtree(made.folder)
    return facts


def _piped(place: Server) -> Mapping[str, Any]:
    target = place.workspace.local / "dump.zst"
    chosen = _chosen(_tables(place))
    process = subprocess.Popen([embedded.client("pg_dump"), "-Fc", "-Z0", *chosen, "-d", place.url], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with target.open("wb") as stream:
        zstandard.ZstdCompressor(level=3, threads=-1).copy_stream(process.stdout, stream)
    assert process.wait() == 0
    return {"mib": size_mib(target)}


def _dump(place: Server, options: list[str]) -> Callable[[], Mapping[str, Any]]:
    target = place.workspace.local / "dump"

    def work() -> Mapping[str, Any]:
        dump(place, target, options, *_tables(place))
        return {"mib": size_mib(target)}

    return work


def dump(place: Server, target: Path, options: list[str], *tables: str) -> None:
    """Runs pg_dump over these tables; what was at ``target`` goes."""
    shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
    subprocess.run([embedded.client("pg_dump"), *options, *_chosen(tables), "-f", target, "-d", place.url], check=True)


def _tables(place: Server) -> tuple[str, ...]:
    return place.release.table_name, f"{place.release.table_name}_terms"


def _chosen(tables: tuple[str, ...]) -> list[str]:
    return [part for table in tables for part in ("-t", table)]


def size_mib(path: Path) -> float:
    files = [path] if path.is_file() else [item for item in path.rglob("*") if item.is_file()]
    return sum(item.stat().st_size for item in files) / 2**20


def _mib(runs: list[Run], system: str) -> float:
    return float(next(run.facts["mib"] for run in runs if run.system == system))


def _peak_mib() -> float:
    """The script's largest resident size, as the kernel counted it.

    A process begins with the peak of the one that started it, so a small one stands between.
    """
    script = PROJECT / "scripts" / "backup_production_state.py"
    between = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL);"
        " print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    command = [sys.executable, "-c", between, sys.executable, script]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / 1024
