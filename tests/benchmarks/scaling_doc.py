"""Writes the measured tables of ``docs/scaling.md`` from ``metrics/benchmarks/scaling.json``.

``make bench BENCH=scaling``, then ``.venv/bin/python -m tests.benchmarks.scaling_doc``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from lib.platform.files import read_json, read_text, write_text
from tests.benchmarks.harness import PROJECT, RESULTS

PAGE = PROJECT / "docs" / "scaling.md"
_MILLION, _BILLION = "1,000,000 calculated", "1,000,000,000 calculated"
_STAGES = {
    "load": "loading by COPY",
    "weigh": "BM25 weights",
    "index": "HNSW, postings, statistics",
    "digest": "content digest (seal, promotion)",
    "copy out": "backup: COPY and zstd",
    "exact scan": "one search without the index",
}
_PARTS = {
    "heap": "rows",
    "toast": "texts, vectors, weights out of line (TOAST)",
    "hnsw": "vector index",
    "beside": "BM25 postings",
    "other_indexes": "other indexes",
    "total": "together",
}


def tables(result: Mapping[str, Any]) -> dict[str, str]:
    """Name → Markdown, for every table that the page has a place for."""
    rows = {row["name"].removeprefix("scaling: "): row for row in result["comparisons"]}
    return {
        "machine": _machine(result["machine"]),
        "stages": _stages(rows),
        "disk": _disk(rows["bytes a chunk"]),
        "index memory": _index_memory(rows),
        "near-duplicates": _near_duplicates(rows["near-duplicate memory"]),
        "embedding": _embedding(rows["embedding"]),
    }


def fill(page: str, made: Mapping[str, str]) -> str:
    """The page with each table between its marks replaced; raises KeyError for a mark without a table."""
    marks = re.compile(r"(<!-- measured: ([\w -]+) -->\n).*?(<!-- end -->)", re.DOTALL)
    return marks.sub(lambda match: f"{match[1]}{made[match[2]]}\n{match[3]}", page)


def _machine(machine: Mapping[str, Any]) -> str:
    return f"Measured on {machine['cores']} cores ({machine['cpu']}), {machine['memory_gib']:g} GiB, {machine['system']}."


def _stages(rows: Mapping[str, Any]) -> str:
    cells = []
    for stage, label in _STAGES.items():
        row = rows[stage]
        largest = [run for run in row["runs"] if not run.get("calculated")][-1]
        million, billion = _run(row, _MILLION), _run(row, _BILLION)
        cells.append(
            [
                label,
                f"{largest['seconds']:.1f} s at {largest['system']}",
                _duration(million["seconds"]),
                _duration(billion["seconds"]),
                f"{row['ratio']:.2f}",
            ]
        )
    return _table(["stage", "measured", "a million", "a billion, one table", "predicted / measured"], cells)


def _disk(row: Mapping[str, Any]) -> str:
    largest = [run for run in row["runs"] if not run.get("calculated")][-1]
    cells = [[label, f"{largest[part]:,.0f}", f"{largest[part] / 1000:.2f} GB"] for part, label in _PARTS.items()]
    return _table(["part", f"bytes a chunk ({largest['system']})", "a million"], cells)


def _index_memory(rows: Mapping[str, Any]) -> str:
    cells = []
    for name, row in rows.items():
        if name.startswith("hnsw memory, "):
            enough, little = row["runs"][:2]
            cells.append(
                [
                    name.removeprefix("hnsw memory, "),
                    f"{little['memory_bytes_per_vector']:,.0f}",
                    f"{little['memory_bytes_per_vector'] / 1000:.2f} GB",
                    f"{enough['index_bytes_per_vector']:,.0f}",
                    f"{row['ratio']:.1f}×",
                ]
            )
    return _table(
        ["type", "build memory, bytes a vector", "a million", "index, bytes a vector", "too little memory"], cells
    )


def _near_duplicates(row: Mapping[str, Any]) -> str:
    measured = row["runs"][0]
    each, rate = (
        measured["memory_bytes_per_chunk"],
        int(measured["system"].split()[0].replace(",", "")) / measured["seconds"],
    )
    cells = [[f"{each:,.0f}", f"{each / 1000:.2f} GB", f"{rate:,.0f}"]]
    return _table(["memory, bytes a chunk", "a million", "chunks a second, one core"], cells)


def _embedding(row: Mapping[str, Any]) -> str:
    cells = [
        [
            run["system"],
            f"{run['chunks_per_s']:.1f}",
            f"{run['machine_days_1,000,000'] * 24:.1f} h",
            f"{run['machine_days_1,000,000,000'] / 365:.1f} years",
        ]
        for run in row["runs"]
    ]
    return _table(["runtime", "chunks a second, this machine", "a million", "a billion, one such machine"], cells)


def _run(row: Mapping[str, Any], system: str) -> Mapping[str, Any]:
    return next(run for run in row["runs"] if run["system"] == system)


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> int:
    result = read_json(RESULTS / "scaling.json", "benchmark result")
    write_text(PAGE, fill(read_text(PAGE, "page"), tables(result)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
