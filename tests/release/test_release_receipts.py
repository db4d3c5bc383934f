"""Receipts: a step need not be done again if it passed with exactly the same inputs."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from lib.platform.workspace import Workspace
from lib.release import receipts

RELEASE = "2026-01-02-030405-v1-0123abcd"
INPUTS = {"content_digest": "1" * 64, "packages": {"torch": "2.13.0"}, "baseline": None}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture
def home(tmp_path) -> Workspace:
    return Workspace(tmp_path)


def test_a_receipt_reads_back_as_it_was_written(home):
    write(home, "DONE", INPUTS)
    found = receipts.read(home, RELEASE, "ingest")
    assert (found.step, found.release_id, found.outcome) == ("ingest", RELEASE, "DONE")
    assert (found.inputs, found.summary, found.seconds) == (INPUTS, {"rows": 3}, 1.235)  # 1.23456 to the millisecond
    assert found.finished_at.endswith("Z")


@pytest.mark.parametrize(
    ("outcome", "holds"), [("DONE", True), ("PASS", True), ("FAIL", False), ("INCONCLUSIVE", False), ("ERROR", False)]
)
def test_only_what_was_done_or_passed_holds(home, outcome, holds):
    write(home, outcome, INPUTS)
    assert receipts.holds(home, RELEASE, "ingest", INPUTS) is holds


@given(json_values, json_values)
@hypothesis_settings(deadline=None, derandomize=True, max_examples=60)
def test_a_receipt_holds_for_its_own_inputs_and_no_others(tmp_path_factory, ours, theirs):
    home = Workspace(tmp_path_factory.mktemp("receipts"))
    write(home, "DONE", {"value": ours})
    assert receipts.holds(home, RELEASE, "ingest", {"value": ours})
    assert receipts.holds(home, RELEASE, "ingest", {"value": theirs}) == (ours == theirs)
    assert not receipts.holds(home, RELEASE, "ingest", {"value": ours, "more": 1})
    assert not receipts.holds(home, RELEASE, "ingest", {})


def test_a_receipt_belongs_to_one_step_of_one_release(home):
    write(home, "DONE", INPUTS)
    assert not receipts.holds(home, RELEASE, "backup", INPUTS)
    assert not receipts.holds(home, "2026-01-02-030405-v1-ffffffff", "ingest", INPUTS)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", "3", '{"step": "ingest"}', '{"outcome": "DONE", "extra": 1}', "\0"]
)
def test_a_receipt_that_cannot_be_read_is_none_and_never_holds(home, content):
    write(home, "DONE", {})
    receipts.path_of(home, RELEASE, "ingest").write_text(content)
    assert receipts.read(home, RELEASE, "ingest") is None
    assert not receipts.holds(home, RELEASE, "ingest", {})


@pytest.mark.parametrize("part", ["inputs", "summary"])
def test_a_receipt_with_a_part_that_is_no_object_is_none(home, part):
    write(home, "DONE", INPUTS)
    path = receipts.path_of(home, RELEASE, "ingest")
    path.write_text(json.dumps({**json.loads(path.read_text()), part: None}))
    assert receipts.read(home, RELEASE, "ingest") is None


def test_a_later_receipt_replaces_the_earlier_one(home):
    write(home, "PASS", INPUTS)
    write(home, "FAIL", INPUTS)
    assert receipts.read(home, RELEASE, "ingest").outcome == "FAIL"
    assert not receipts.holds(home, RELEASE, "ingest", INPUTS)


def write(home: Workspace, outcome: str, inputs: dict) -> None:
    receipts.write(home, RELEASE, "ingest", outcome=outcome, inputs=inputs, summary={"rows": 3}, seconds=1.23456)
