"""Stored judgements: found by content alone, first come first kept, replaced when fresh, carried by files."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from lib.evaluation import judgements
from lib.evaluation.judgements import FILE, Judgement, key_of
from lib.platform import postgres
from lib.platform.errors import ConfigInvalid

JUDGE = {"service": "openai", "address": "http://h/v1", "model_id": "m", "temperature": 0.0, "max_tokens": 9, "seed": 42}


@pytest.mark.parametrize("name", list(JUDGE))
def test_every_part_of_the_judge_is_in_the_key(name):
    other = {**JUDGE, name: f"{JUDGE[name]}x"}
    assert key_of(other, "p", 0) != key_of(JUDGE, "p", 0)


def test_prompt_and_repeat_are_in_the_key():
    assert len({key_of(JUDGE, "p", 0), key_of(JUDGE, "q", 0), key_of(JUDGE, "p", 1)}) == 3


def test_what_was_kept_is_found_by_the_next_evaluation_as_it_was(stored):
    one = made("line\nend\u2028 é", [["é", "is", "so"]])
    assert stored().find(one.key) is None
    assert stored().keep(one) == one
    assert stored().find(one.key) == one


def test_of_two_at_the_same_time_the_first_counts_for_both(stored):
    first, second = stored(), stored()
    assert first.keep(made("Entailment")).reply == "Entailment"
    assert second.keep(made("Neutral")).reply == "Entailment"


def test_fresh_judging_passes_over_what_is_stored_and_replaces_it(stored):
    stored().keep(made("old"))
    fresh = stored(fresh=True)
    assert fresh.find(made("old").key) is None
    assert fresh.keep(made("new")).reply == "new"
    assert fresh.find(made("old").key).reply == "new"  # a prompt that comes again in the run is not judged twice
    assert fresh.keep(made("newer still")).reply == "new"
    assert stored().find(made("old").key).reply == "new"


def test_the_file_beside_the_results_carries_them_to_another_database(stored, connection, tmp_path):
    store = stored()
    for number in (1, 0):
        store.keep(made("Neutral", repeat=number))
    store.write(tmp_path / "a")
    with connection, connection.cursor() as cursor:
        cursor.execute("TRUNCATE golive.judgements")
    elsewhere = stored()
    elsewhere.load(tmp_path / "a")
    for number in (0, 1):
        assert elsewhere.find(made("x", repeat=number).key) == made("Neutral", repeat=number)
    elsewhere.write(tmp_path / "b")
    assert (tmp_path / "a" / FILE).read_bytes() == (tmp_path / "b" / FILE).read_bytes()


def test_what_a_result_was_made_of_comes_before_what_was_judged_since(stored, tmp_path):
    store = stored()
    store.keep(made("then"))
    store.write(tmp_path)
    stored(fresh=True).keep(made("since"))
    again = stored()
    again.load(tmp_path)
    assert again.find(made("then").key).reply == "then"


@pytest.mark.parametrize(
    ("old", "new"), [('"repeat":0', '"repeat":1'), ('"reply"', '"said"'), ("{", ""), ('"seed":42', '"seed":43')]
)
def test_a_file_that_was_damaged_is_named(stored, tmp_path, old, new):
    store = stored()
    store.keep(made("Neutral"))
    store.write(tmp_path)
    path = tmp_path / FILE
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ConfigInvalid, match=FILE):
        stored().load(tmp_path)
    stored(fresh=True).load(tmp_path)  # which does not look at it


def test_an_evaluations_file_holds_what_it_used_alone(stored, tmp_path):
    stored().keep(made("unused", repeat=7))
    store = stored()
    store.keep(made("Neutral"))
    store.write(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / FILE).read_text().splitlines()]
    assert rows == [{"key": made("x").key, **dataclasses.asdict(made("Neutral"))}]


def test_what_nobody_used_for_long_is_pruned_and_what_is_used_again_is_not(stored, connection):
    for repeat in range(3):
        stored().keep(made("Neutral", repeat=repeat))
    unused_since(connection, 200)
    assert stored().find(made("", repeat=1).key) is not None
    assert used_days_ago(connection) == [200, 0, 200]
    stored(fresh=True).keep(made("Entailment", repeat=2))
    assert used_days_ago(connection) == [200, 0, 0]
    assert judgements.prune(connection, 200) == 0
    assert judgements.prune(connection, 199) == 1
    assert used_days_ago(connection) == [0, 0]


def test_what_the_live_release_or_the_one_before_it_may_rest_on_is_never_pruned(stored, connection):
    """Both were released long ago, the earlier of the two 300 days."""
    for repeat, days in enumerate((301, 300, 250)):
        stored().keep(made("Neutral", repeat=repeat))
        execute(connection, "UPDATE golive.judgements SET used_on = current_date - %s WHERE repeat = %s", days, repeat)
    for release_id, days in (("older", 400), ("previous", 300), ("live", 100)):
        execute(
            connection,
            "INSERT INTO golive.releases (release_id, chunk_version, config_hash, config, table_schema, table_name, state,"
            " sealed_at) VALUES (%s, %s, '', '{}', '', '', 'sealed', now() - make_interval(days => %s))",
            release_id,
            release_id,
            days,
        )
    execute(connection, "UPDATE golive.pointer SET release_id = 'live', previous = 'previous'")
    assert judgements.prune(connection, 180) == 1
    assert used_days_ago(connection) == [300, 250]


def test_an_evaluation_prunes_when_it_is_done_and_not_when_it_failed(stored, connection, workspace, tmp_path):
    stored().keep(made("Neutral"))
    unused_since(connection, 200)
    with pytest.raises(KeyboardInterrupt), judgements.opened(workspace, [tmp_path], fresh=False, unused_days=180):
        raise KeyboardInterrupt
    assert used_days_ago(connection) == [200]
    with judgements.opened(workspace, [tmp_path], fresh=False, unused_days=180):
        pass
    assert used_days_ago(connection) == []


def test_a_state_of_before_there_was_a_use_to_note_is_brought_up_to_date(stored, connection):
    execute(connection, "ALTER TABLE golive.judgements DROP COLUMN used_on, DROP COLUMN latency_ms")
    execute(
        connection,
        "INSERT INTO golive.judgements (judgement_key, judge, prompt_sha256, repeat, reply, read_as, input_tokens)"
        " VALUES (%s, %s, %s, 0, 'Neutral', '[\"Neutral\"]', 5)",
        made("Neutral").key,
        json.dumps(JUDGE),
        "0" * 64,
    )
    execute(connection, "UPDATE golive.schema_version SET version = 3")
    postgres.create_state(connection)
    assert stored().find(made("Neutral").key) == made("Neutral")
    assert used_days_ago(connection) == [0]


def test_a_file_without_latencies_is_read(stored, tmp_path):
    store = stored()
    store.keep(made("Neutral"))
    store.write(tmp_path)
    path = tmp_path / FILE
    path.write_text(path.read_text().replace('"latency_ms":null,', ""))
    again = stored(fresh=False)
    again.load(tmp_path)
    assert again.find(made("Neutral").key) == made("Neutral")


def execute(connection: Any, statement: str, *values: Any) -> None:
    with connection, connection.cursor() as cursor:
        cursor.execute(statement, values or None)


def unused_since(connection: Any, days: int) -> None:
    execute(connection, "UPDATE golive.judgements SET used_on = current_date - %s", days)


def used_days_ago(connection: Any) -> list[int]:
    with connection:
        found = postgres.every(connection, "SELECT current_date - used_on AS days FROM golive.judgements ORDER BY repeat")
    return [row["days"] for row in found]


def made(reply: str, read_as: list[Any] | None = None, repeat: int = 0) -> Judgement:
    return Judgement(JUDGE, "0" * 64, repeat, reply, [reply] if read_as is None else read_as, 5, None)
