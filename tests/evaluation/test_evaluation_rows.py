"""Rows in a file say the same as rows in memory, and stay what they were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.evaluation import results, rows
from lib.evaluation.results import Evaluation
from lib.evaluation.rows import StoredRows, digest_of_evaluation
from lib.platform.files import digest_of, write_json_lines
from tests.case_rows import write_evaluation

_TEXTS = st.text(max_size=8)
_VALUES = st.none() | st.floats(0, 1)


@st.composite
def _rows(draw: st.DrawFn) -> list[dict[str, Any]]:
    ids = draw(st.lists(_TEXTS, unique=True, max_size=6))
    return [
        {
            "query_id": query_id,
            "query": draw(_TEXTS),
            "answerable": draw(st.booleans()),
            "unscored": draw(_TEXTS),
            "tags": draw(st.lists(_TEXTS, max_size=2)),
            "snapshot": [[draw(_TEXTS), draw(st.floats(0, 1))]],
            "metrics": draw(st.none() | st.fixed_dictionaries({"recall": _VALUES, "f1": _VALUES})),
        }
        for query_id in sorted(ids)
    ]


@settings(deadline=None, max_examples=50)
@given(made=_rows())
def test_what_is_read_back_is_what_was_appended(made: list[dict[str, Any]], tmp_path_factory: Any) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    stored = StoredRows(path, create=True)
    for row in made:
        stored.append(row)
    for found in (stored, StoredRows(path)):
        assert found == made and len(found) == len(made)
        assert [dict(row) for row in found] == made
        assert digest_of_evaluation({"a": 1}, found) == digest_of({"summary": {"a": 1}, "rows": made})
    write_json_lines(path.with_suffix(".held"), made)
    assert path.read_bytes() == path.with_suffix(".held").read_bytes()


def test_an_evaluation_gives_the_same_values_from_a_file_as_from_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [_row("a", recall=0.5), _row("b", recall=None, unmeasured=["f1"]), _row("c", answerable=False)]
    held = Evaluation({"metrics": {}}, made)
    write_evaluation(tmp_path, held)
    monkeypatch.setattr(rows, "HELD_BYTES", 0)
    read = results.read(tmp_path)
    assert isinstance(read.rows, StoredRows)
    for metric in ("recall", "f1", "oracle_hit_rate", "abstention_accuracy", "avg_snapshot_size", "deduplication_rate"):
        assert read.values(metric) == held.values(metric)
        assert read.upper_values(metric) == held.upper_values(metric)
    assert (read.digest, read.unscored, read.documents) == (held.digest, held.unscored, held.documents)
    assert read.rows[1]["query"] == "about b" and read.rows[-1]["metrics"] is None
    assert results.summarise(read.rows, inputs={}, produced_by={}, deduplication_rate=None) == results.summarise(
        made, inputs={}, produced_by={}, deduplication_rate=None
    )


def test_rows_stay_what_they_were_where_the_path_names_another_file(tmp_path: Path) -> None:
    write_json_lines(tmp_path / "rows", [_row("a")])
    stored = StoredRows(tmp_path / "rows")
    write_json_lines(tmp_path / "rows", [_row("b")])
    assert (stored[0]["query_id"], stored[0]["query"]) == ("a", "about a")


@pytest.mark.parametrize("content", ["{", "[]\n", '{"query_id": "a"}\n', '{"query_id": "a", "metrics": null}'])
def test_a_file_that_holds_no_rows_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "rows").write_text(content)
    with pytest.raises(ValueError):
        StoredRows(tmp_path / "rows")


def test_a_row_is_small_in_memory_whatever_its_texts(tmp_path: Path) -> None:
    import tracemalloc

    stored = StoredRows(tmp_path / "rows", create=True)
    tracemalloc.start()
    for number in range(2000):
        stored.append({**_row(f"q{number:05d}"), "query": "word " * 2000})
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tmp_path / "rows").stat().st_size > 2000 * 10_000
    assert held < 2000 * 500
    assert json.loads(next(stored.lines()))["query"] == stored[0]["query"]


def _row(query_id: str, *, answerable: bool = True, unmeasured: list[str] | None = None, **metrics: Any) -> dict[str, Any]:
    return {
        "query_id": query_id,
        "query": f"about {query_id}",
        "answerable": answerable,
        "abstained": not answerable,
        "unscored": "judge: silent" if unmeasured else "",
        "snapshot_size": 45,
        "documents": ["corpus/a.md"],
        "claims": {"response": 1, "gt_answer": 2},
        "unmeasured": unmeasured or [],
        "undefined": [name for name, value in metrics.items() if value is None],
        "metrics": {**dict.fromkeys(results.CASE_METRICS, 1.0), **metrics} if answerable else None,
    }
