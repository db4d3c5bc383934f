"""Monitoring what is live: read from the database alone, judged by ``configs/monitoring.yaml``."""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from typing import Any

from psycopg2.extensions import connection as Connection

from lib.config import guardrails, layers
from lib.config.bounds import SPECIAL_TOKENS, TOKEN_BUDGET
from lib.index.releases import Release, read_pointer
from lib.index.seal import content_of
from lib.platform import postgres
from lib.platform.clock import timestamp
from lib.platform.errors import NotFound
from lib.platform.workspace import Workspace


def look(workspace: Workspace, connection: Connection, moment: datetime) -> dict[str, Any]:
    """``{timestamp, config_version, overall_healthy, config_health, retrieval_health, quality, ingest, queries, alerts}``.

    Raises:
        NotFound: nothing is live.
    """
    limits = layers.load(workspace, "monitoring", environment=layers.environment_name(workspace, os.environ)).values
    with connection:
        release = read_pointer(connection).release
        traffic = postgres.one(connection, "SELECT state, reason FROM golive.traffic")
    if release is None:
        raise NotFound("no release is live", hint="make golive")
    config = release.locked_config
    config_health = guardrails.validate_config(config)
    queries = _queries(connection, release, moment, limits)
    quality = _quality(connection, release)
    retrieval = _retrieval(connection, release, queries, quality)
    alerts = judge(
        limits, config_health, retrieval, quality, release.ingest_stats, queries, str(traffic["state"]) if traffic else ""
    )
    return {
        "timestamp": timestamp(moment),
        "config_version": config.chunk_version,
        "release_id": release.release_id,
        "overall_healthy": not any(alert["level"] == "critical" for alert in alerts),
        "config_health": config_health,
        "retrieval_health": retrieval,
        "quality": quality,
        "ingest": {name: release.ingest_stats.get(name) for name in ("chunks_per_s", "deduplication_rate")},
        "queries": queries,
        "traffic": traffic,
        "alerts": alerts,
    }


def judge(
    limits: dict[str, Any],
    config_health: dict[str, Any],
    retrieval: dict[str, Any],
    quality: dict[str, Any],
    ingest: dict[str, Any],
    queries: dict[str, Any],
    traffic_state: str,
) -> list[dict[str, str]]:
    """Alerts, the critical ones first. Pure. What is unknown is critical, except where too few queries were asked."""
    alerts: list[dict[str, str]] = []

    def alert(level: str, name: str, message: str) -> None:
        alerts.append({"level": level, "name": name, "message": message})

    for issue in config_health["issues"]:
        alert("critical", "config", f"configuration validation failed: {issue}")
    if not retrieval["table_sound"]:
        alert("critical", "table", "the live table is not what was sealed")
    if retrieval["bm25_prefix_leakage"]:
        alert(
            "critical", "bm25_prefix_leakage", f"{retrieval['bm25_prefix_leakage']} chunks leak their prefix into bm25_text"
        )
    if retrieval["over_budget_chunks"]:
        alert("critical", "over_budget_chunks", f"{retrieval['over_budget_chunks']} chunks are over the token budget")
    if traffic_state != "open":
        alert("critical", "traffic", "queries are stopped")
    for name in ("oracle_hit_rate", "filter_hit_rate"):
        value, floor = quality[name], limits[f"{name}_floor"]
        if value is None:
            alert("critical", name, "no evaluation of what is live: nothing is known")
        elif value < floor:
            alert("critical", name, f"{value:.3f} is under {floor:g}")
    if retrieval["stale_chunks"]:
        alert("warning", "stale_chunks", f"{retrieval['stale_chunks']} chunks are of documents that were changed since")
    size = retrieval["avg_snapshot_size"]
    if size is None:
        alert("critical", "avg_snapshot_size", "no query and no evaluation: nothing is known")
    elif size < limits["snapshot_size_floor"]:
        alert("warning", "avg_snapshot_size", f"{size:.1f} is under {limits['snapshot_size_floor']:g}")
    rate = ingest.get("deduplication_rate")
    if rate is None:
        alert("critical", "deduplication_rate", "the ingest left no number: nothing is known")
    elif not limits["deduplication_low"] <= rate <= limits["deduplication_high"]:
        alert("warning", "deduplication_rate", f"{rate:.1%} is outside of the usual band")
    if queries["latency_p95_ms"] is not None and queries["latency_p95_ms"] > limits["latency_p95_ms_ceiling"]:
        alert(
            "warning",
            "latency_p95_ms",
            f"{queries['latency_p95_ms']:.0f} ms is over {limits['latency_p95_ms_ceiling']:g} ms",
        )
    drift = queries["rerank_drift"]
    if drift is not None and abs(drift) > limits["rerank_drift_ceiling"]:
        alert("warning", "rerank_drift", f"rerank scores moved by {drift:+.2f} standard deviations")
    return sorted(alerts, key=lambda item: item["level"] != "critical")


def to_text(found: dict[str, Any]) -> str:
    retrieval, quality, queries = found["retrieval_health"], found["quality"], found["queries"]

    def shown(value: float | None, form: str = ".3f", unit: str = "") -> str:
        return "no data" if value is None else format(value, form) + unit

    lines = [
        f"{'healthy' if found['overall_healthy'] else 'UNHEALTHY'}: {found['release_id']} at {found['timestamp']}",
        f"  oracle hit rate     {shown(quality['oracle_hit_rate'])} (evaluation of {quality['measured_at'] or 'never'})",
        f"  filter hit rate     {shown(quality['filter_hit_rate'])}",
        f"  reader gold usage   {shown(quality['reader_gold_usage'])}",
        f"  snapshot size       {shown(retrieval['avg_snapshot_size'], '.1f')} chunks ({retrieval['snapshot_source']})",
        f"  prefix leakage      {shown(retrieval['bm25_prefix_leakage'], 'd')} of {retrieval['rows']} rows",
        f"  over budget         {shown(retrieval['over_budget_chunks'], 'd')} chunks",
        f"  deduplication       {shown(found['ingest']['deduplication_rate'], '.1%')}",
        f"  ingest throughput   {shown(found['ingest']['chunks_per_s'], '.1f')} chunks/s",
        f"  queries             {queries['count']} in {queries['window_hours']:g} h,"
        f" p50 {shown(queries['latency_p50_ms'], '.0f', ' ms')},"
        f" p95 {shown(queries['latency_p95_ms'], '.0f', ' ms')}, rerank drift {shown(queries['rerank_drift'], '+.2f')}",
    ]
    lines += [f"  {alert['level']}: {alert['name']}: {alert['message']}" for alert in found["alerts"]]
    return "\n".join(lines)


def _queries(connection: Connection, release: Release, moment: datetime, limits: dict[str, Any]) -> dict[str, Any]:
    """Latency and rerank drift of the release's queries in the window; None where there are too few to say."""
    since = moment - timedelta(hours=limits["window_hours"])
    with connection:
        found = postgres.one(
            connection,
            postgres.read_sql(__file__, "query_window"),
            {"release_id": release.release_id, "since": since},
        )
    assert found is not None
    enough = found["count"] >= limits["min_queries"]
    older, newer, spread = found["older_score"], found["newer_score"], found["score_deviation"]
    drift = None
    if enough and older is not None and newer is not None:  # a query that found nothing has no score
        drift = (newer - older) / spread if spread else 0.0
    return {
        "count": found["count"],
        "window_hours": limits["window_hours"],
        "avg_snapshot_size": float(found["avg_snapshot_size"]) if found["count"] else None,
        "latency_p50_ms": found["latency_p50_ms"] if enough else None,
        "latency_p95_ms": found["latency_p95_ms"] if enough else None,
        "rerank_drift": drift,
    }


def _quality(connection: Connection, release: Release) -> dict[str, Any]:
    """Hit rates and snapshot size of the newest evaluation of what is live; None where there is none."""
    with connection:
        found = postgres.one(
            connection,
            "SELECT metrics, decided_at FROM golive.verdicts WHERE release_id = %s ORDER BY verdict_id DESC LIMIT 1",
            (release.release_id,),
        )
    metrics = found["metrics"] if found else {}
    names = ("oracle_hit_rate", "filter_hit_rate", "reader_gold_usage", "avg_snapshot_size")
    return {**{name: metrics.get(name) for name in names}, "measured_at": timestamp(found["decided_at"]) if found else None}


def _retrieval(
    connection: Connection, release: Release, queries: dict[str, Any], quality: dict[str, Any]
) -> dict[str, Any]:
    """Every row of the live table against its source span and the token budget."""
    with connection:
        content = content_of(connection, release.table_schema, release.table_name)
        counts = None
        if content is not None:
            budget = min(TOKEN_BUDGET, release.locked_config.embedder_max_sequence_length) - SPECIAL_TOKENS
            query = postgres.compose(__file__, "table_health", table=release.table)
            parameters = {
                "budget": budget,
                "policy": release.locked_config.prefix_policy,
                "release_id": release.release_id,
            }
            counts = postgres.one(connection, query, parameters)
    sound = content is not None and content.digest == release.content_digest
    measured = queries["avg_snapshot_size"]
    return {
        "healthy": bool(sound and counts and not counts["leaking"] and not counts["over"]),
        "table_sound": sound,
        "rows": content.row_count if content else 0,
        "bm25_prefix_leakage": counts["leaking"] if counts else None,
        "stale_chunks": counts["stale"] if counts else None,
        "over_budget_chunks": counts["over"] if counts else None,
        "avg_snapshot_size": measured if measured is not None else quality["avg_snapshot_size"],
        "snapshot_source": "queries" if measured is not None else "last evaluation",
    }
