"""The health gates: is everything that an evaluation stands on really there? Each says status, evidence and time.

PASS: looked at and right. FAIL: looked at and wrong. ERROR: could not be looked at. Anything but PASS stops an evaluation.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from psycopg2.extensions import connection as Connection

from lib.config import embedder_files, store
from lib.config.bounds import SPECIAL_TOKENS, TOKEN_BUDGET
from lib.config.locked_config import LockedConfig
from lib.evaluation import judges
from lib.evaluation.settings import EvaluationSettings, overridden
from lib.index import changes
from lib.index.embedder import load_embedder, sentence_transformer
from lib.index.fusion import Candidate
from lib.index.releases import Release
from lib.index.rerank import reranker_of
from lib.index.seal import content_of
from lib.platform import postgres
from lib.platform.cli import translate
from lib.platform.errors import redact
from lib.platform.workspace import Workspace
from lib.release.catching_up import judge_documents
from lib.release.tables import text_table

_UNIT_LENGTH_TOLERANCE = 1e-3
_PROBE = Candidate("probe", "probe", 0, 7, "A probe.", "A probe.", 3, 3, "", (), 1, 1, 1.0, 1.0)


@dataclass(frozen=True)
class Check:
    """One gate's result."""

    name: str
    status: str
    evidence: str
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def overall(checks: list[Check]) -> str:
    """The worst status of the checks: FAIL, ERROR, PASS. No checks at all is an ERROR."""
    statuses = [check.status for check in checks]
    return next((status for status in ("FAIL", "ERROR", "PASS") if status in statuses), "ERROR")


def to_text(checks: list[Check]) -> str:
    return text_table(
        [["gate", "status", "seconds", "evidence"]] + [[c.name, c.status, f"{c.seconds:.2f}", c.evidence] for c in checks]
    )


def check_all(workspace: Workspace, connection: Connection, release: Release, settings: EvaluationSettings) -> list[Check]:
    """All six gates, in the order in which a person would look."""
    return [
        check_environment(workspace, settings),
        _timed("database_connectivity", lambda: _database(connection)),
        _timed("index_presence", lambda: _index(workspace, connection, release)),
        *check_rows(connection, release),
        _timed("model_availability", lambda: _models(workspace, release.locked_config, settings)),
    ]


def check_rows(connection: Connection, release: Release) -> list[Check]:
    """The two gates that look at every row that answers."""
    return [
        _timed("token_budget", lambda: _token_budget(connection, release)),
        _timed("prefix_leakage", lambda: _prefix_leakage(connection, release)),
    ]


def check_environment(workspace: Workspace, settings: EvaluationSettings) -> Check:
    """Whether the deterministic settings are in force and the model service's limits are kept."""
    return _timed("environment", lambda: _environment(workspace, settings))


def _timed(name: str, look: Callable[[], tuple[bool, str]]) -> Check:
    started = time.monotonic()
    try:
        good, evidence = look()
        status = "PASS" if good else "FAIL"
    except Exception as error:  # a gate that cannot look is an ERROR with its reason, whatever the reason is
        known = translate(error)
        status = "ERROR"
        evidence = (
            " ".join(filter(None, (known.message, known.detail, known.hint)))
            if known
            else f"{type(error).__name__}: {error}"
        )
    return Check(name, status, redact(evidence), round(time.monotonic() - started, 3))


def _environment(workspace: Workspace, settings: EvaluationSettings) -> tuple[bool, str]:
    changed = [
        f"{name}={now} in the environment, {file} in the file"
        for name, (file, now) in overridden(workspace, os.environ).items()
    ]
    problems = [*settings.determinism.problems(), *_other_release(workspace)]
    if problems:
        return False, "; ".join(problems + changed)
    found = settings.determinism
    evidence = (
        f"temperature 0, caches off, seed {found.seed}, prompt audit on, {found.max_workers} workers,"
        f" {found.bedrock_requests_per_second:g} requests/s"
    )
    return True, "; ".join([evidence, *settings.remarks(), *changed])


def _other_release(workspace: Workspace) -> list[str]:
    """Whether ``CHUNK_VERSION`` or ``INGEST_RUN_ID``, where they are set, name another release than the active one."""
    if not store.active_path(workspace).exists():
        return []
    active = store.read_active(workspace)
    expected = {"CHUNK_VERSION": active.chunk_version, "INGEST_RUN_ID": active.ingest_run_id}
    return [
        f"{name}={os.environ[name]} in the environment, the active config is {value}"
        for name, value in expected.items()
        if os.environ.get(name, value) != value
    ]


def _database(connection: Connection) -> tuple[bool, str]:
    with connection:
        found = postgres.one(
            connection,
            "SELECT current_setting('server_version') AS server, current_user AS role, current_database() AS name,"
            " pg_is_in_recovery() AS replica, (SELECT extversion FROM pg_extension WHERE extname = 'vector') AS pgvector",
        )
    assert found is not None
    if found["replica"]:
        return False, "this server is a read-only replica"
    with connection, connection.cursor() as cursor:  # a real write, undone
        cursor.execute("SAVEPOINT probe")
        cursor.execute("UPDATE golive.pointer SET generation = generation")
        cursor.execute("CREATE TABLE golive_write_probe (id integer)")
        cursor.execute("ROLLBACK TO SAVEPOINT probe")
    return True, f"PostgreSQL {found['server']}, pgvector {found['pgvector']}, {found['role']} may write to {found['name']}"


def _index(workspace: Workspace, connection: Connection, release: Release) -> tuple[bool, str]:
    if release.content_digest is None:
        return False, f"{release.table_name} is not sealed: scripts/shadow_ingest.py"
    with connection:
        content = content_of(connection, release.table_schema, release.table_name)
        if content is None:
            return False, f"{release.table_name} is gone"
        indexes = count_vector_indexes(connection, release)
        unweighted = postgres.one(connection, postgres.compose(__file__, "count_unweighted", table=release.table))
    documents_hold, documents = _documents(workspace, connection, release)
    assert unweighted is not None
    problems = []
    if content.digest != release.content_digest:
        problems.append(f"content digest is {content.digest[:12]}, {release.content_digest[:12]} was sealed")
    if not content.row_count:
        problems.append("the table is empty")
    if not indexes:
        problems.append("no valid vector index")
    if unweighted["rows"]:
        problems.append(f"{unweighted['rows']} rows without BM25 weights")
    if not documents_hold:
        problems.append(f"the documents have changed since the table was sealed: {documents}")
    found = f"{content.row_count} rows, digest {content.digest[:12]}, {indexes} vector index; of the documents {documents}"
    return not problems, "; ".join(problems) or found


def _documents(workspace: Workspace, connection: Connection, release: Release) -> tuple[bool, str]:
    """Whether few enough documents have changed since the seal; an evaluation brings in those that are pending."""
    try:
        changes.ensure_coverage(connection, release)
        return judge_documents(workspace, connection, release, may_be_pending=True)
    finally:
        connection.rollback()


def count_vector_indexes(connection: Connection, release: Release) -> int:
    """How many valid vector indexes the release's table has. The caller owns the transaction."""
    found = postgres.one(
        connection,
        "SELECT count(*) AS indexes FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
        " JOIN pg_am a ON a.oid = c.relam WHERE a.amname = 'hnsw' AND i.indisvalid AND i.indrelid = to_regclass(%s)",
        (postgres.quoted_name(release.table_schema, release.table_name),),
    )
    return int(found["indexes"]) if found else 0


def _token_budget(connection: Connection, release: Release) -> tuple[bool, str]:
    config = release.locked_config
    budget = min(TOKEN_BUDGET, config.embedder_max_sequence_length) - SPECIAL_TOKENS
    query = postgres.compose(__file__, "token_budget", table=release.table)
    with connection:
        found = postgres.one(connection, query, {"budget": budget, "release_id": release.release_id})
    assert found is not None
    evidence = f"{found['over']} of {found['rows']} chunks over {budget} tokens; the longest has {found['longest']}"
    return found["over"] == 0 and found["rows"] > 0, evidence


def _prefix_leakage(connection: Connection, release: Release) -> tuple[bool, str]:
    if release.locked_config.prefix_policy != "A":
        return True, "prefix policy B puts the prefix into bm25_text on purpose"
    found = leakage(connection, release)
    evidence = (
        f"{found['leaking']} of {found['rows']} rows differ from their source span, {found['stale']} could not be compared"
    )
    # stale rows are those of documents that are to be brought in; how many those may be is judged with the index
    return found["leaking"] == 0 and found["rows"] > found["stale"], evidence


def leakage(connection: Connection, release: Release) -> dict[str, int]:
    """``{rows, leaking, stale}`` over every row that answers; the documents of stale rows have changed since."""
    query = postgres.compose(__file__, "prefix_leakage", table=release.table)
    with connection:
        found = postgres.one(connection, query, {"release_id": release.release_id})
    assert found is not None
    return {name: int(value) for name, value in found.items()}


def _models(workspace: Workspace, config: LockedConfig, settings: EvaluationSettings) -> tuple[bool, str]:
    """A real call to every model that the config and the evaluation name."""
    import numpy as np

    question = "Does the model answer?"
    embedder = load_embedder(workspace, config)
    vector = embedder.embed_query(question)
    length = float(np.linalg.norm(vector))
    if abs(length - 1) > _UNIT_LENGTH_TOLERANCE:
        return False, f"the embedder {config.embedder_name} gave a vector of length {length:.3f}, not 1"
    reranker = reranker_of(config, embedder)
    (score,) = reranker.score(question, [_PROBE])
    called = [
        f"{config.embedder_name} gave {len(vector)} dimensions",
        f"reranker {reranker.name} gave {score:.3f}",
    ]
    clients = judges.model_clients(settings, None)
    for client in clients.values():
        client.complete("Reply with the word: ready", purpose="health gate")
        called.append(f"{client.model_id} replied")
    if "reader" not in clients:
        reader = embedder_files.find(workspace, settings.values["reader"]["embedder"])
        sentence_transformer(reader).embed_query(question)
        called.append(f"the offline reader's {reader.name} answered")
    if "judge" not in clients:
        called.append("the offline judge compares words by the same")
    return True, "; ".join(called)
