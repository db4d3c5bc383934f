"""Runs benchmarks by name, or all of them: prints ours, the peer's and the ratio, writes metrics/benchmarks/<name>.json.

Exits with 0 where every target was reached, with 3 where one was missed.
"""

from __future__ import annotations

import argparse
import importlib
import sys

from tests.benchmarks import harness

NAMES = (
    "chunking",
    "chunk_quality",
    "near_duplicates",
    "embedding",
    "load",
    "ingest_overlap",
    "retrieval_quality",
    "retrieval_latency",
    "scaling",
    "backup",
    "restore",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all where none is given")
    names = parser.parse_args().names or NAMES
    if unknown := [name for name in names if name not in NAMES]:
        parser.error(f"no benchmark {unknown[0]!r}: they are {', '.join(NAMES)}")
    missed = False
    for name in names:
        comparisons = importlib.import_module(f"tests.benchmarks.bench_{name}").run()
        print(harness.to_text(comparisons), flush=True)
        print(f"  -> {harness.write(name, comparisons).relative_to(harness.PROJECT)}", flush=True)
        missed |= any(comparison.reached is False for comparison in comparisons)
    return 3 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
