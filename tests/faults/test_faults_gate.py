"""The gate: what was changed after the verdict does not go live."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lib.config import store
from tests.faults.cases import Case


@pytest.mark.fault("gate.shadow")
def test_a_shadow_table_that_changed_since_the_verdict_is_not_promoted(open_case: Callable[[str], Case]) -> None:
    case = open_case("promote")
    case.project.tamper("UPDATE {table} SET bm25_text = bm25_text || ' and more' WHERE chunk_index = 0")
    refused = case.run()
    assert refused.code == 15, refused
    assert "content digest" in refused.err
    assert case.project.pointer().generation == case.before.generation
    case.project.tamper("UPDATE {table} SET bm25_text = replace(bm25_text, ' and more', '') WHERE chunk_index = 0")
    case.repeat()


@pytest.mark.fault("gate.config")
@pytest.mark.parametrize("what", ["config", "gates", "cases", "verdict"])
def test_what_the_verdict_was_given_for_must_be_what_is_there(what: str, open_case: Callable[[str], Case]) -> None:
    case = open_case("promote")
    workspace = case.project.workspace
    path, old, new = {
        "config": (store.active_path(workspace), '"created_by": "', '"created_by": "somebody-else '),
        "gates": (workspace.configs / "gates.yaml", "confidence: 0.9", "confidence: 0.8"),
        "cases": (workspace.default_cases, "how long does", "how long may"),
        "verdict": (workspace.evidence(case.project.release().release_id) / "verdict.json", "written by a test", "good"),
    }[what]
    sound = path.read_text()
    assert old in sound
    path.write_text(sound.replace(old, new))
    refused = case.run()
    assert refused.code in (14, 15), refused
    assert case.project.pointer().generation == case.before.generation
    path.write_text(sound)
    case.repeat()
