"""Cut-over under load: eight clients query without a pause, a long reader stands, and the pointer moves 100 times.

The releases have embedders of different dimensions. The ratio of a stall is the longest that any query saw without
cut-overs over the longest with them; that of errors is 1 where no query failed and no answer mixed releases, else 0.
"""

from __future__ import annotations

import statistics
import time
from contextlib import closing

from lib.platform import postgres
from tests.benchmarks.cutover_load import clients, long_reader, make_releases, move, move_often
from tests.benchmarks.harness import Comparison, Run
from tests.platform import managed

_ROWS = 5000
_MOVES = 100
_WAYS = {"prepared statements, direct": True, "through PgBouncer": False}


def run() -> list[Comparison]:
    comparisons = []
    with managed.running() as service, closing(postgres.connect(service.url(), "benchmark")) as connection:
        postgres.create_state(connection)
        releases = make_releases(connection, _ROWS)
        move(connection, releases[1])
        for way, prepared in _WAYS.items():
            url = service.url(pooled=not prepared)
            with long_reader(service.url(), releases):
                with clients(url, prepared=prepared) as busy:
                    started = time.perf_counter()
                    moves = move_often(connection, releases, _MOVES)
                    seconds = time.perf_counter() - started
                with clients(url, prepared=prepared) as quiet:
                    time.sleep(seconds)
            cut_over = {"moves": len(moves), "move_median_ms": statistics.median(moves), "move_max_ms": max(moves)}
            runs = [
                Run("with cut-overs", seconds, {**busy.facts(), **cut_over}),
                Run("without", seconds, quiet.facts()),
            ]
            stalls = quiet.facts()["longest_stall_ms"] / busy.facts()["longest_stall_ms"]
            sound = not busy.errors and not busy.mixed and len(busy.answered_by) == len(releases)
            comparisons += [
                Comparison(f"no error, no mixed answer: {way}", float(sound), 1.0, "every query", runs),
                Comparison(f"longest stall: {way}", stalls, None, "the same load without cut-overs", runs),
            ]
            for error in dict.fromkeys(busy.errors):
                print(f"  {way}: {error}")
    return comparisons
