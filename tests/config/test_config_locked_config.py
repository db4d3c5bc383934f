"""A locked config never changes, its hash covers exactly what decides retrieval, and its names follow from it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.config.locked_config import LockedConfig, chunk_version_at, shadow_table_name
from lib.platform.errors import ConfigInvalid, IntegrityMismatch

Make = Callable[..., LockedConfig]

_WORDS = st.text("abcdef012 é/", min_size=1, max_size=12)
_SHARE = st.floats(0.001, 1)
_COUNT = st.integers(1, 10**6)

# Every field of a locked config, dotted, with other values it could have: what decides retrieval, and what does not.
_DECIDING = {
    "chunk_size": _COUNT,
    "overlap_ratio": _SHARE,
    "jaccard_threshold": _SHARE,
    "prefix_policy": st.sampled_from(["B", "C", ""]),
    "embedder_name": _WORDS,
    "embedder_weights_hash": _WORDS,
    "embedder_dimension": _COUNT,
    "embedder_max_sequence_length": _COUNT,
    "embedder_query_prompt": _WORDS,
    "embedder_document_prompt": _WORDS,
    "embedder_runtime": _WORDS,
    "tokenizer_hash": _WORDS,
    "sources": st.lists(_WORDS, min_size=1, max_size=3, unique=True),
    "retrieval.vector_top_k": _COUNT,
    "retrieval.bm25_top_k": _COUNT,
    "retrieval.rrf_k": _COUNT,
    "retrieval.snapshot_size": _COUNT,
    "retrieval.text_search_config": _WORDS,
    "retrieval.bm25_k1": _SHARE,
    "retrieval.bm25_b": _SHARE,
    "retrieval.hnsw_m": _COUNT,
    "retrieval.hnsw_ef_construction": _COUNT,
    "retrieval.hnsw_ef_search": _COUNT,
    "retrieval.hnsw_iterative_scan": _WORDS,
    "retrieval.fusion": _WORDS,
    "retrieval.vector_weight": st.floats(0.6, 1),
    "rerank.model": _WORDS,
    "filter.max_chunks": _COUNT,
    "filter.max_tokens": _COUNT,
}
_NOT_DECIDING = {
    "chunk_version": st.integers(2, 99).map(lambda n: f"2026-01-02-030405-v{n}"),
    "tokenizer_name": _WORDS,
    "created_at": _WORDS,
    "created_by": _WORDS,
    "baseline_metrics": st.dictionaries(_WORDS, _SHARE, min_size=1, max_size=2),
    "is_locked": st.just(False),
    "shadow_table": _WORDS,
}
_STATE = {"is_production", "config_hash"}


def test_the_tables_above_name_every_field(make_config: Make) -> None:
    values = make_config().to_dict()
    nested = {"retrieval", "rerank", "filter"}
    dotted = {f"{name}.{key}" for name in nested for key in values[name]} | set(values) - nested
    assert dotted == set(_DECIDING) | set(_NOT_DECIDING) | _STATE


@given(st.data())
@settings(deadline=None, derandomize=True, max_examples=150)
def test_whatever_decides_retrieval_changes_the_hash_and_cannot_be_edited_unnoticed(make_config: Make, data: Any) -> None:
    config = make_config()
    field = data.draw(st.sampled_from(sorted(_DECIDING)))
    values = config.to_dict()
    other = data.draw(_DECIDING[field].filter(lambda value: value != _get(values, field)))
    _set(values, field, other)
    with pytest.raises(IntegrityMismatch, match="does not match its config_hash") as caught:
        LockedConfig.from_dict(values)
    assert config.config_hash[:12] in caught.value.detail
    changed = LockedConfig.from_dict({**values, "config_hash": _hash(values)})
    assert changed.config_hash != config.config_hash
    assert changed.digest != config.digest


@given(st.data())
@settings(deadline=None, derandomize=True, max_examples=100)
def test_whatever_does_not_decide_retrieval_leaves_the_hash_and_changes_the_digest(make_config: Make, data: Any) -> None:
    config = make_config()
    field = data.draw(st.sampled_from(sorted(_NOT_DECIDING)))
    values = config.to_dict()
    values[field] = data.draw(_NOT_DECIDING[field].filter(lambda value: value != values[field]))
    changed = LockedConfig.from_dict(values)
    assert changed.config_hash == config.config_hash
    assert changed.digest != config.digest


def test_the_hash_is_the_sha256_of_the_deciding_fields_in_canonical_json(make_config: Make) -> None:
    config = make_config()
    assert config.config_hash == _hash(config.to_dict())


def test_the_order_of_sources_decides_nothing(make_config: Make) -> None:
    assert make_config(sources=("b", "a")).config_hash == make_config(sources=("a", "b")).config_hash
    assert make_config(sources=("a",)).config_hash != make_config(sources=("a", "b")).config_hash


def test_being_live_is_a_state_and_no_part_of_the_config(make_config: Make) -> None:
    config = make_config()
    live = config.in_production(True)
    assert (config.is_production, live.is_production) == (False, True)
    assert (live.config_hash, live.digest) == (config.config_hash, config.digest)
    assert live.in_production(False) == config


def test_a_config_goes_through_json_unchanged(make_config: Make) -> None:
    config = make_config(
        sources=("a", "b"), baseline_metrics={"release_id": "r", "metrics": {"f1": 0.1}}, is_production=True
    )
    back = LockedConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert back == config
    assert back.digest == config.digest


def test_a_config_cannot_be_changed_in_place(make_config: Make) -> None:
    config = make_config()
    for part, name in ((config, "chunk_size"), (config.retrieval, "rrf_k"), (config.filter, "max_chunks")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(part, name, 1)


def test_names_follow_from_version_and_hash(make_config: Make) -> None:
    config = make_config(chunk_version="2025-09-07-143022-v12")
    assert config.ingest_run_id == f"2025-09-07-143022-v12-{config.config_hash[:8]}"
    assert config.shadow_table == "document_chunks_2025_09_07_143022_v12"


def test_a_version_is_the_moment_in_utc_and_a_counter() -> None:
    moment = datetime(2025, 9, 7, 1, 30, 22, tzinfo=timezone(timedelta(hours=2)))  # still the 6th in UTC
    assert chunk_version_at(moment, 3) == "2025-09-06-233022-v3"


@given(st.datetimes(datetime(2000, 1, 1), datetime(9999, 12, 31)), st.integers(1, 10**9))
@settings(deadline=None, derandomize=True, max_examples=100)
def test_every_version_makes_a_config_and_a_table_name_that_fits(make_config: Make, moment: datetime, ordinal: int) -> None:
    version = chunk_version_at(moment.replace(tzinfo=UTC), ordinal)
    assert make_config(chunk_version=version).shadow_table == shadow_table_name(version)
    assert len(shadow_table_name(version) + "_hnsw") <= 63
    assert set(shadow_table_name(version)) <= set("abcdefghijklmnopqrstuvwxyz0123456789_")


@pytest.mark.parametrize(
    "version",
    [
        "",
        "v1",
        "2026-01-02-030405",
        "2026-01-02-030405-v0",
        "2026-01-02-030405-v01",
        "2026-1-2-030405-v1",
        "2026-01-02-0304-v1",
        "2026-01-02-030405-v1; DROP TABLE x",
        "../2026-01-02-030405-v1",
        "2026-01-02-030405-v1\n",
        "２０２６-01-02-030405-v1",
    ],
)
def test_what_is_no_version_is_refused(version: str, make_config: Make) -> None:
    with pytest.raises(ConfigInvalid, match="is not YYYY-MM-DD-HHMMSS-vN"):
        make_config(chunk_version=version)


def test_unknown_fields_are_named(make_config: Make) -> None:
    with pytest.raises(ConfigInvalid, match="unknown fields") as caught:
        LockedConfig.from_dict({**make_config().to_dict(), "extra": 1})
    assert "extra" in caught.value.detail


@pytest.mark.parametrize(
    "field", ["chunk_size", "retrieval", "sources", "chunk_version", "retrieval.rrf_k", "rerank.model"]
)
def test_a_missing_field_is_named(field: str, make_config: Make) -> None:
    values = make_config().to_dict()
    head, _, rest = field.partition(".")
    del (values[head] if rest else values)[rest or head]
    with pytest.raises(ConfigInvalid, match="incomplete") as caught:
        LockedConfig.from_dict(values)
    assert (rest or head) in caught.value.detail


@pytest.mark.parametrize(
    ("field", "value"),
    [("retrieval", None), ("rerank", "none"), ("sources", 5), ("chunk_version", 20260102), ("filter", [])],
)
def test_a_field_of_another_kind_is_refused(field: str, value: Any, make_config: Make) -> None:
    with pytest.raises(ConfigInvalid):
        LockedConfig.from_dict({**make_config().to_dict(), field: value})


@pytest.mark.parametrize("values", [[], "text", None, 5, [{}]], ids=repr)
def test_what_is_no_mapping_is_refused(values: Any) -> None:
    with pytest.raises(ConfigInvalid):
        LockedConfig.from_dict(values)


@pytest.mark.parametrize("recorded", [None, ""])
def test_a_config_without_its_hash_is_refused(recorded: str | None, make_config: Make) -> None:
    values = {**make_config().to_dict(), "chunk_size": 300}
    del values["config_hash"]
    if recorded is not None:
        values["config_hash"] = recorded
    with pytest.raises((ConfigInvalid, IntegrityMismatch)):
        LockedConfig.from_dict(values)


def test_a_number_that_is_none_is_refused(make_config: Make) -> None:
    with pytest.raises(ConfigInvalid):
        make_config(overlap_ratio=math.nan)


def _hash(values: dict[str, Any]) -> str:
    """The config hash as the design defines it, independently of the code."""
    flat = {field.partition(".")[0] for field in _DECIDING}
    deciding = {name: values[name] for name in flat} | {"sources": sorted(values["sources"])}
    text = json.dumps(deciding, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _get(values: dict[str, Any], dotted: str) -> Any:
    head, _, rest = dotted.partition(".")
    return values[head][rest] if rest else values[head]


def _set(values: dict[str, Any], dotted: str, value: Any) -> None:
    head, _, rest = dotted.partition(".")
    if rest:
        values[head][rest] = value
    else:
        values[head] = value
