"""Schema errors name every violation, its place and the way out."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from lib.config import layers, schemas, strict_yaml
from lib.platform.errors import ConfigInvalid
from lib.platform.workspace import Workspace

_SCHEMAS = sorted((Workspace.find().configs / "schemas").glob("*.schema.json"))
_CONFIGS = sorted(Workspace.find().configs.glob("*.yaml"))


@pytest.mark.parametrize("path", _SCHEMAS, ids=lambda path: path.name)
def test_every_shipped_schema_is_one(path: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(path.read_text()))


@pytest.mark.parametrize("path", _CONFIGS, ids=lambda path: path.name)
def test_every_shipped_config_satisfies_its_schema(path: Path) -> None:
    name, _, environment = path.stem.partition(".")
    schema = {"backup": "backup_targets"}.get(name)  # "backup" is that of a backup's manifest
    assert layers.load(Workspace.find(), name, environment=environment or None, schema=schema).values


def test_a_line_break_at_the_end_is_not_what_a_pattern_allows() -> None:
    settings = strict_yaml.load(Workspace.find().configs / "candidate.yaml", "config").values
    settings["retrieval"]["text_search_config"] += "\n"
    with pytest.raises(ConfigInvalid, match="must match"):
        schemas.check(settings, "candidate", str)


@pytest.fixture
def candidate() -> dict[str, Any]:
    return copy.deepcopy(strict_yaml.load(Workspace.find().configs / "candidate.yaml", "config").values)


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("chunk_size", "450", "must be of type integer, not '450'"),
        ("chunk_size", True, "must be of type integer, not True"),
        ("chunk_size", 450.0, "must be of type integer, not 450.0"),
        ("overlap_ratio", None, "must be of type number, not None"),
        ("embedder", "", "must not be empty"),
        ("sources", [], "needs at least 1 entries"),
        ("sources", ["a", "a"], "has an entry twice"),
        ("retrieval.rrf_k", 0, "must be at least 1, not 0"),
        ("retrieval.rrf_k", 1001, "must be at most 1000, not 1001"),
        ("retrieval.bm25_k1", 0, "must be over 0, not 0"),
        ("retrieval.text_search_config", "English", "must match ^[a-z_]+$, not 'English'"),
        ("rerank", "none", "must be of type object, not 'none'"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_expected(
    key: str, value: Any, complaint: str, candidate: dict[str, Any]
) -> None:
    _set(candidate, key, value)
    with pytest.raises(ConfigInvalid) as caught:
        schemas.check(candidate, "candidate", lambda dotted: f"<{dotted}>")
    assert caught.value.message == f"<{key}>: {key} {complaint}"
    assert caught.value.detail == ""


@pytest.mark.parametrize(
    ("key", "value"), [("retrieval.rrf_k", 1), ("retrieval.rrf_k", 1000), ("retrieval.bm25_b", 0), ("retrieval.bm25_b", 1)]
)
def test_a_value_at_its_limit_is_fine(key: str, value: Any, candidate: dict[str, Any]) -> None:
    _set(candidate, key, value)
    schemas.check(candidate, "candidate", str)


def test_a_missing_key_is_named_with_its_path(candidate: dict[str, Any]) -> None:
    del candidate["retrieval"]["rrf_k"]
    with pytest.raises(ConfigInvalid, match=r"<retrieval>: retrieval\.rrf_k is missing"):
        schemas.check(candidate, "candidate", lambda dotted: f"<{dotted}>")


def test_every_missing_key_is_named(candidate: dict[str, Any]) -> None:
    del candidate["chunk_size"], candidate["filter"]
    with pytest.raises(ConfigInvalid) as caught:
        schemas.check(candidate, "candidate", lambda dotted: "here")
    assert {caught.value.message, caught.value.detail} == {"here: chunk_size is missing", "here: filter is missing"}


def test_every_unknown_key_is_named_with_the_nearest_known_one(candidate: dict[str, Any]) -> None:
    candidate["filter"] |= {"max_chunk": 3, "zzz": 1}
    with pytest.raises(ConfigInvalid) as caught:
        schemas.check(candidate, "candidate", lambda dotted: f"<{dotted}>")
    assert caught.value.message == "<filter.max_chunk>: unknown key 'max_chunk' (did you mean max_chunks?)"
    assert caught.value.detail == "<filter.zzz>: unknown key 'zzz'"


def test_of_many_violations_five_are_told_in_full_and_the_rest_counted(candidate: dict[str, Any]) -> None:
    candidate["retrieval"] = dict.fromkeys(candidate["retrieval"], None) | {"rrf_k": 60}
    with pytest.raises(ConfigInvalid) as caught:
        schemas.check(candidate, "candidate", str)
    # thirteen settings, one of them sound: twelve violations, five told, seven counted
    assert len([caught.value.message, *caught.value.detail.split("; ")]) == 5
    assert caught.value.detail.endswith(" (and 7 more)")


def test_a_date_in_other_digits_never_outlives_every_date() -> None:
    entry = {"item": "x", "by": "me", "at": "2026-01-02", "until": "２０２６-01-02", "note": "seen"}
    with pytest.raises(ConfigInvalid, match=r"attestations\.0\.until must match"):
        schemas.check({"attestations": [entry]}, "attestations", str)


def test_a_value_that_is_no_mapping_at_all_is_refused() -> None:
    with pytest.raises(ConfigInvalid, match="here: the value must be of type object, not 5"):
        schemas.check(5, "candidate", lambda dotted: "here")


def _set(values: dict[str, Any], dotted: str, value: Any) -> None:
    *path, last = dotted.split(".")
    for key in path:
        values = values[key]
    values[last] = value
