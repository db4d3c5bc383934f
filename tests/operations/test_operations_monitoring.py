"""Monitoring: what is live is healthy only where every number is there and within its limits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
import yaml

from lib.index.retrieval import LiveRetriever
from lib.index.seal import content_of
from lib.operations import monitoring
from lib.platform.clock import now
from lib.platform.errors import ConfigInvalid, NotFound
from lib.release import traffic
from tests.conftest import HANDBOOK
from tests.release.staged import Project, build, sync, write_verdict

NOW = now()
LIMITS = {
    "window_hours": 24,
    "min_queries": 20,
    "oracle_hit_rate_floor": 0.45,
    "filter_hit_rate_floor": 0.2,
    "snapshot_size_floor": 30,
    "deduplication_low": 0.1,
    "deduplication_high": 0.35,
    "latency_p95_ms_ceiling": 1000,
    "rerank_drift_ceiling": 0.5,
}
FEW_DUPLICATES = ("warning", "deduplication_rate")  # three documents without a near-duplicate


def test_the_document_has_the_shape_that_a_dashboard_reads(live, run_script):
    done = run_script("production_health_monitor", "--json")
    assert done.code == 0, done.err
    found = done.json
    assert datetime.strptime(found["timestamp"], "%Y-%m-%dT%H:%M:%SZ")
    assert (found["config_version"], found["release_id"]) == ("2026-01-02-030405-v1", live.live_id())
    assert found["overall_healthy"] is True
    assert found["config_health"] == {"valid": True, "issues": [], "warnings": []}
    assert found["retrieval_health"] == {
        "healthy": True,
        "table_sound": True,
        "rows": 3,
        "bm25_prefix_leakage": 0,
        "stale_chunks": 0,
        "over_budget_chunks": 0,
        "avg_snapshot_size": 45.0,
        "snapshot_source": "last evaluation",
    }
    assert found["alerts"] == [
        {"level": "warning", "name": "deduplication_rate", "message": "0.0% is outside of the usual band"}
    ]
    assert found["ingest"].keys() == {"chunks_per_s", "deduplication_rate"}
    assert found["ingest"]["chunks_per_s"] > 0


def test_the_script_exits_3_where_something_critical_is_wrong(live, run_script):
    traffic.stop(live.connection, "looking into it")
    done = run_script("production_health_monitor")
    assert done.code == 3
    assert done.out.startswith(f"UNHEALTHY: {live.live_id()}")
    assert "critical: traffic: queries are stopped" in done.out


def test_looking_changes_nothing(live):
    before = (
        live.ask("SELECT * FROM golive.audit_log"),
        live.pointer(),
        live.ask("SELECT relname FROM pg_class ORDER BY oid"),
    )
    look(live)
    assert (live.ask("SELECT * FROM golive.audit_log"), live.pointer()) == before[:2]
    assert live.ask("SELECT relname FROM pg_class ORDER BY oid") == before[2]


def test_where_nothing_is_live_there_is_nothing_to_call_healthy(ready):
    with pytest.raises(NotFound, match="no release is live"):
        look(ready)


def test_limits_that_are_gone_or_wrong_are_no_limits(live):
    path = live.workspace.configs / "monitoring.yaml"
    path.write_text(path.read_text().replace("min_queries: 20", "min_queries: 1"))
    with pytest.raises(ConfigInvalid, match=r"monitoring.yaml:\d+: min_queries must be at least 2"):
        look(live)
    path.unlink()
    with pytest.raises(NotFound, match=r"monitoring.yaml"):
        look(live)


def test_the_shipped_limits_are_those_of_these_tests(live):
    assert yaml.safe_load((live.workspace.configs / "monitoring.yaml").read_text()) == LIMITS


def test_an_environments_layer_sets_other_limits(live, monkeypatch):
    (live.workspace.configs / "monitoring.staging.yaml").write_text("oracle_hit_rate_floor: 0.95\n")
    assert alerts(look(live)) == [FEW_DUPLICATES]
    monkeypatch.setenv("GOLIVE_ENV", "staging")
    assert alerts(look(live)) == [("critical", "oracle_hit_rate"), FEW_DUPLICATES]


def changed(part: str, **values: Any) -> dict[str, Any]:
    return {part: values}


@pytest.mark.parametrize(
    ("changes", "raised"),
    [
        ({}, []),
        (changed("config_health", issues=["too long", "too wide"]), [("critical", "config")] * 2),
        (changed("retrieval", table_sound=False), [("critical", "table")]),
        (changed("retrieval", bm25_prefix_leakage=1), [("critical", "bm25_prefix_leakage")]),
        (changed("retrieval", over_budget_chunks=1), [("critical", "over_budget_chunks")]),
        (changed("retrieval", stale_chunks=1), [("warning", "stale_chunks")]),
        (changed("retrieval", avg_snapshot_size=30.0), []),
        (changed("retrieval", avg_snapshot_size=29.9), [("warning", "avg_snapshot_size")]),
        (changed("retrieval", avg_snapshot_size=None), [("critical", "avg_snapshot_size")]),
        (changed("quality", oracle_hit_rate=0.45), []),
        (changed("quality", oracle_hit_rate=0.449), [("critical", "oracle_hit_rate")]),
        (changed("quality", oracle_hit_rate=0.0), [("critical", "oracle_hit_rate")]),
        (changed("quality", oracle_hit_rate=None), [("critical", "oracle_hit_rate")]),
        (changed("quality", filter_hit_rate=0.2), []),
        (changed("quality", filter_hit_rate=0.199), [("critical", "filter_hit_rate")]),
        (changed("quality", filter_hit_rate=None), [("critical", "filter_hit_rate")]),
        (changed("ingest", deduplication_rate=0.1), []),
        (changed("ingest", deduplication_rate=0.099), [("warning", "deduplication_rate")]),
        (changed("ingest", deduplication_rate=0.35), []),
        (changed("ingest", deduplication_rate=0.351), [("warning", "deduplication_rate")]),
        (changed("ingest", deduplication_rate=None), [("critical", "deduplication_rate")]),
        (changed("queries", latency_p95_ms=1000.0), []),
        (changed("queries", latency_p95_ms=1000.5), [("warning", "latency_p95_ms")]),
        (changed("queries", latency_p95_ms=None, rerank_drift=None), []),  # too few were asked to say
        (changed("queries", rerank_drift=0.5), []),
        (changed("queries", rerank_drift=0.51), [("warning", "rerank_drift")]),
        (changed("queries", rerank_drift=-0.51), [("warning", "rerank_drift")]),
        ({"traffic_state": "stopped"}, [("critical", "traffic")]),
        ({"traffic_state": ""}, [("critical", "traffic")]),  # no row that says so
    ],
)
def test_each_alert_is_raised_beyond_its_limit_and_not_at_it(changes, raised):
    assert [(alert["level"], alert["name"]) for alert in judge(**changes)] == raised


def test_an_alert_says_what_was_found_and_what_was_allowed():
    assert judge(quality={"oracle_hit_rate": 0.4})[0]["message"] == "0.400 is under 0.45"
    assert judge(retrieval={"bm25_prefix_leakage": 7})[0]["message"] == "7 chunks leak their prefix into bm25_text"
    assert judge(retrieval={"avg_snapshot_size": 12.34})[0]["message"] == "12.3 is under 30"
    assert judge(queries={"latency_p95_ms": 1234.5})[0]["message"] == "1234 ms is over 1000 ms"
    assert judge(queries={"rerank_drift": -1.5})[0]["message"] == "rerank scores moved by -1.50 standard deviations"


def test_what_is_critical_comes_first():
    found = judge(queries={"latency_p95_ms": 2000.0}, retrieval={"stale_chunks": 3}, quality={"filter_hit_rate": 0.0})
    assert [alert["level"] for alert in found] == ["critical", "warning", "warning"]


@pytest.mark.parametrize(("where", "leaking"), [("", 3), ("WHERE id = 'corpus/pointer.md#0'", 1)])
def test_leakage_is_counted_on_every_row(live, where, leaking):
    live.tamper(f"UPDATE {{table}} SET bm25_text = embedding_text {where}")
    seal_as_it_is(live)
    found = look(live)
    assert (found["retrieval_health"]["bm25_prefix_leakage"], found["retrieval_health"]["rows"]) == (leaking, 3)
    assert (found["retrieval_health"]["healthy"], found["overall_healthy"]) == (False, False)
    assert alerts(found) == [("critical", "bm25_prefix_leakage"), FEW_DUPLICATES]


@pytest.mark.parametrize("where", ["", "WHERE chunk_index = (SELECT max(chunk_index) FROM {table})"])
def test_leakage_is_found_in_every_chunk_of_a_document(second, where):
    release = second.release()
    second.execute("UPDATE golive.pointer SET release_id = %s", (release.release_id,))
    (row,) = second.ask(f"SELECT count(*) AS leaking FROM {release.table_name} {where.format(table=release.table_name)}")
    second.tamper(f"UPDATE {{table}} SET bm25_text = embedding_text {where}")
    assert release.row_count is not None
    assert release.row_count > 3
    assert 0 < row["leaking"] == look(second)["retrieval_health"]["bm25_prefix_leakage"]


def test_one_blank_more_than_the_source_span_is_leakage(live):
    live.tamper("UPDATE {table} SET bm25_text = ' ' || bm25_text WHERE id = 'corpus/pointer.md#0'")
    assert look(live)["retrieval_health"]["bm25_prefix_leakage"] == 1


def test_under_policy_b_the_prefix_in_bm25_text_is_on_purpose(live, make_config):
    release = build(live, make_config(prefix_policy="B", chunk_version="2026-01-05-030405-v1"))
    write_verdict(live)
    live.execute("UPDATE golive.pointer SET release_id = %s", (release.release_id,))
    found = look(live)
    assert (found["config_version"], found["retrieval_health"]["bm25_prefix_leakage"]) == ("2026-01-05-030405-v1", 0)
    assert found["overall_healthy"]


@pytest.mark.parametrize(("tokens", "over"), [(510, 0), (511, 1)])  # 512 that the embedder reads - 2 special
def test_a_chunk_that_the_embedder_would_cut_is_counted(live, tokens, over):
    live.tamper(f"UPDATE {{table}} SET embedding_token_count = {tokens} WHERE id = 'corpus/pointer.md#0'")
    seal_as_it_is(live)
    found = look(live)
    assert (found["retrieval_health"]["over_budget_chunks"], found["overall_healthy"]) == (over, not over)


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM {table} WHERE id = 'corpus/pointer.md#0'",
        "DELETE FROM {table}",
        "UPDATE {table} SET embedding_text = embedding_text || ' ' WHERE id = 'corpus/pointer.md#0'",
        "DROP TABLE {table}",
    ],
)
def test_a_table_that_is_not_what_was_sealed_is_never_healthy(live, damage):
    live.tamper(damage)
    found = look(live)
    assert (found["retrieval_health"]["healthy"], found["overall_healthy"]) == (False, False)
    assert alerts(found)[0] == ("critical", "table")


def test_what_could_not_be_counted_is_null_and_said(live):
    live.tamper("DROP TABLE {table}")
    found = look(live)
    counts = ("bm25_prefix_leakage", "stale_chunks", "over_budget_chunks")
    assert {name: found["retrieval_health"][name] for name in counts} == dict.fromkeys(counts)
    assert "  prefix leakage      no data of 0 rows" in monitoring.to_text(found).splitlines()


def test_chunks_of_documents_that_were_changed_since_are_told_and_not_called_leaking(live):
    sync(live, {**HANDBOOK, "pointer.md": "# The pointer\n\nTwo rows.\n"})
    found = look(live)
    assert (found["retrieval_health"]["stale_chunks"], found["retrieval_health"]["bm25_prefix_leakage"]) == (1, 0)
    assert alerts(found) == [("warning", "stale_chunks"), FEW_DUPLICATES]


def test_without_an_evaluation_of_what_is_live_nothing_is_known_and_nothing_healthy(live):
    live.execute("DELETE FROM golive.verdicts")
    found = look(live)
    assert found["quality"] == dict.fromkeys(found["quality"])
    assert found["retrieval_health"]["avg_snapshot_size"] is None
    assert not found["overall_healthy"]
    critical = [name for level, name in alerts(found) if level == "critical"]
    assert critical == ["oracle_hit_rate", "filter_hit_rate", "avg_snapshot_size"]
    assert "oracle hit rate     no data (evaluation of never)" in monitoring.to_text(found)


def test_an_evaluation_that_measured_nothing_is_no_evaluation(live):
    live.execute("UPDATE golive.verdicts SET metrics = '{\"oracle_hit_rate\": null}'")
    assert not look(live)["overall_healthy"]


def test_the_newest_evaluation_of_what_is_live_counts(live):
    write_verdict(live, oracle_hit_rate=0.3)
    assert ("critical", "oracle_hit_rate") in alerts(look(live))
    write_verdict(live, oracle_hit_rate=0.6)
    assert look(live)["quality"]["oracle_hit_rate"] == 0.6


def test_the_evaluation_of_another_release_says_nothing_about_what_is_live(second):
    write_verdict(second, oracle_hit_rate=0.1)
    assert look(second)["quality"]["oracle_hit_rate"] == 0.9


def test_an_ingest_that_left_no_numbers_is_told(live):
    live.execute("UPDATE golive.releases SET ingest_stats = '{}'")
    found = look(live)
    assert found["ingest"] == {"chunks_per_s": None, "deduplication_rate": None}
    assert alerts(found) == [("critical", "deduplication_rate")]


def test_a_live_config_out_of_bounds_is_critical(live):
    config = replace(live.release().locked_config, overlap_ratio=0.75, config_hash="")
    live.execute("UPDATE golive.releases SET config = %s", (json.dumps(config.to_dict()),))
    found = look(live)
    assert found["config_health"]["valid"] is False
    assert found["config_health"]["issues"] == ["overlap_ratio must be 0 to 0.5, not 0.75"]
    assert alerts(found)[0] == ("critical", "config")
    assert not found["overall_healthy"]


def test_latency_by_hand(live):
    ask(live, latencies=[10.0 * place for place in range(1, 21)])  # 10, 20, … 200
    queries = look(live)["queries"]
    assert queries["count"] == 20
    assert queries["latency_p50_ms"] == 105.0  # between the tenth and the eleventh
    assert queries["latency_p95_ms"] == pytest.approx(190.5)  # 190 and a twentieth of the way to 200
    assert ("warning", "latency_p95_ms") not in alerts(look(live))


def test_slow_queries_raise_an_alert(live):
    ask(live, latencies=[10.0] * 18 + [3000.0] * 2)
    found = look(live)
    assert found["queries"]["latency_p95_ms"] == 3000.0
    assert alerts(found) == [FEW_DUPLICATES, ("warning", "latency_p95_ms")]
    assert found["overall_healthy"]  # a warning is no outage


@pytest.mark.parametrize(("older", "newer", "drift"), [(0.25, 0.75, 1.949359), (0.75, 0.25, -1.949359)])
def test_drift_by_hand(live, older, newer, drift):
    """The halves differ by .5; twenty scores .25 from their mean deviate by sqrt(20 · .0625 / 19) = .256495."""
    ask(live, scores=[older] * 10 + [newer] * 10)
    found = look(live)
    assert found["queries"]["rerank_drift"] == pytest.approx(drift, abs=1e-6)
    assert ("warning", "rerank_drift") in alerts(found)


@pytest.mark.parametrize("scores", [[0.25, 0.75] * 10, [0.5] * 20])
def test_scores_that_stay_where_they_are_do_not_drift(live, scores):
    ask(live, scores=scores)
    found = look(live)
    assert found["queries"]["rerank_drift"] == 0.0
    assert alerts(found) == [FEW_DUPLICATES]


@pytest.mark.parametrize(
    "scores",
    [
        [None] * 20,
        [None] * 10 + [0.25, 0.75] * 5,  # at first, nothing was found
        [0.25, 0.75] * 5 + [None] * 10,
    ],
)
def test_queries_that_found_nothing_leave_the_drift_unknown(live, scores):
    ask(live, scores=scores)
    found = look(live)
    assert (found["queries"]["count"], found["queries"]["rerank_drift"]) == (20, None)
    assert "rerank drift no data" in monitoring.to_text(found)


def test_too_few_queries_give_neither_latency_nor_drift(live):
    ask(live, scores=[0.25] * 9 + [0.75] * 10)
    queries = look(live)["queries"]
    assert (queries["count"], queries["latency_p50_ms"], queries["latency_p95_ms"]) == (19, None, None)
    assert queries["rerank_drift"] is None


def test_only_the_queries_of_the_window_count(live):
    ask(live, latencies=[10.0] * 20)
    ask(live, latencies=[9000.0] * 30, before=timedelta(hours=24))
    queries = look(live)["queries"]
    assert (queries["count"], queries["latency_p95_ms"], queries["window_hours"]) == (20, 10.0, 24)


def test_queries_that_another_release_answered_do_not_count(live):
    ask(live, latencies=[9000.0] * 30, release_id="2026-01-01-000000-v1-01234567")
    assert look(live)["queries"]["count"] == 0


@pytest.mark.parametrize(("size", "raised"), [(30, False), (29, True)])
def test_snapshots_of_real_queries_count_before_those_of_the_evaluation(live, size, raised):
    ask(live, latencies=[10.0] * 2, snapshot_size=size)
    found = look(live)
    retrieval = found["retrieval_health"]
    assert (retrieval["avg_snapshot_size"], retrieval["snapshot_source"]) == (float(size), "queries")
    assert (("warning", "avg_snapshot_size") in alerts(found)) is raised


def test_a_question_that_was_really_asked_is_seen(live):
    LiveRetriever(live.connection, live.workspace).retrieve("how long does going back take?")
    found = monitoring.look(live.workspace, live.connection, now())
    assert found["queries"]["count"] == 1
    assert found["retrieval_health"]["avg_snapshot_size"] == 3.0  # all there is


def test_the_text_tells_every_number_by_hand():
    found = {
        "overall_healthy": False,
        "release_id": "r1",
        "timestamp": "2026-01-02T03:04:05Z",
        "quality": {
            "oracle_hit_rate": 0.9,
            "filter_hit_rate": 0.8,
            "reader_gold_usage": None,
            "measured_at": "2026-01-01T00:00:00Z",
        },
        "retrieval_health": {
            "avg_snapshot_size": 45.0,
            "snapshot_source": "queries",
            "bm25_prefix_leakage": 2,
            "rows": 1200,
            "over_budget_chunks": 0,
        },
        "ingest": {"deduplication_rate": 0.125, "chunks_per_s": 31.25},
        "queries": {
            "count": 40,
            "window_hours": 24,
            "latency_p50_ms": 12.4,
            "latency_p95_ms": 99.6,
            "rerank_drift": -0.25,
        },
        "alerts": [{"level": "critical", "name": "traffic", "message": "queries are stopped"}],
    }
    assert monitoring.to_text(found).splitlines() == [
        "UNHEALTHY: r1 at 2026-01-02T03:04:05Z",
        "  oracle hit rate     0.900 (evaluation of 2026-01-01T00:00:00Z)",
        "  filter hit rate     0.800",
        "  reader gold usage   no data",
        "  snapshot size       45.0 chunks (queries)",
        "  prefix leakage      2 of 1200 rows",
        "  over budget         0 chunks",
        "  deduplication       12.5%",
        "  ingest throughput   31.2 chunks/s",
        "  queries             40 in 24 h, p50 12 ms, p95 100 ms, rerank drift -0.25",
        "  critical: traffic: queries are stopped",
    ]


def look(project: Project) -> dict[str, Any]:
    found = monitoring.look(project.workspace, project.connection, NOW)
    json.dumps(found, allow_nan=False)  # what the script prints
    return found


def alerts(found: dict[str, Any]) -> list[tuple[str, str]]:
    return [(alert["level"], alert["name"]) for alert in found["alerts"]]


def judge(traffic_state: str = "open", **changes: dict[str, Any]) -> list[dict[str, str]]:
    """The alerts of a release in perfect health, but for these changes."""
    sound: dict[str, dict[str, Any]] = {
        "config_health": {"valid": True, "issues": [], "warnings": []},
        "retrieval": {
            "table_sound": True,
            "bm25_prefix_leakage": 0,
            "stale_chunks": 0,
            "over_budget_chunks": 0,
            "avg_snapshot_size": 45.0,
        },
        "quality": {"oracle_hit_rate": 0.9, "filter_hit_rate": 0.8},
        "ingest": {"deduplication_rate": 0.2},
        "queries": {"latency_p95_ms": 100.0, "rerank_drift": 0.1},
    }
    parts = {name: {**values, **changes.get(name, {})} for name, values in sound.items()}
    return monitoring.judge(LIMITS, **parts, traffic_state=traffic_state)


def seal_as_it_is(project: Project) -> None:
    """Makes the live table's content what was sealed, so that only what is in it is judged."""
    release = project.release()
    with project.connection:
        content = content_of(project.connection, release.table_schema, release.table_name)
    assert content is not None
    project.execute("UPDATE golive.releases SET content_digest = %s", (content.digest,))


def ask(
    project: Project,
    *,
    latencies: Sequence[float] = (),
    scores: Sequence[float | None] = (),
    snapshot_size: int = 45,
    before: timedelta = timedelta(0),
    release_id: str | None = None,
) -> None:
    """Logs queries one second apart, the last of them ``before`` the moment of looking, oldest first."""
    count = len(latencies) or len(scores)
    for place in range(count):
        project.execute(
            "INSERT INTO golive.query_logs"
            " (asked_at, release_id, query_sha256, snapshot_size, context_size, mean_rerank_score, latency_ms)"
            " VALUES (%s, %s, repeat('0', 64), %s, 6, %s, %s)",
            (
                NOW - before - timedelta(seconds=count - place),
                release_id or project.live_id(),
                snapshot_size,
                scores[place] if scores else 0.5,
                latencies[place] if latencies else 10.0,
            ),
        )
