"""Who reads and judges: clients within one set of limits, the same answers judged again, and what is left beside them."""

from __future__ import annotations

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lib.evaluation import judges, ragchecker_metrics, rejudging, run
from lib.evaluation import settings as evaluation_settings
from lib.evaluation.settings import EvaluationSettings, prompt_text
from lib.platform.errors import IntegrityMismatch
from lib.platform.workspace import Workspace
from tests.evaluation.test_evaluation_run import METRIC_FILES, build, request
from tests.json_service import Answer

ANSWERS = {"q1": ("Seven stay.", "Seven stay."), "q2": ("Four go.", "Lunch."), "q3": ("It rains.", "")}
KNOWN = "Entailment"


def test_the_offline_judge_agrees_with_itself_to_the_last_bit(workspace, tmp_path):
    with judges.opened(workspace, settings(workspace, repeats=3), {}, folder=tmp_path) as panel:
        labelled = answers(panel)
        panel.judge_again(labelled, ragchecker_metrics.compute(labelled))
        found = panel.noise()
    assert set(found) == set(ragchecker_metrics.METRICS)
    assert {(values["sd"], values["sd_from_cases"], values["disagreement"]) for values in found.values()} == {(0.0,) * 3}
    assert (found["recall"]["cases"], found["hallucination"]["cases"], found["recall"]["repeats"]) == (3, 2, 3)


def test_without_repeats_nothing_is_judged_again(workspace, tmp_path):
    with judges.opened(workspace, settings(workspace), {}, folder=tmp_path) as panel:
        panel.judge_again(answers(panel), {})
        assert panel.noise() is None


def test_a_judge_that_changes_its_mind_is_measured(workspace, connection, tmp_path, chat):
    asked = openai(workspace, chat.url, repeats=2)
    judgings = iter(["Neutral", "Entailment"])
    chat.reply = labels(lambda reference: next(judgings) if reference == "Four go." else KNOWN)
    clients = judges.model_clients(asked, None)
    with judges.opened(workspace, asked, clients, folder=tmp_path) as panel:
        labelled = [result("q2")]
        panel.first.label(labelled[0])
        panel.judge_again(labelled, ragchecker_metrics.compute(labelled))
        found = panel.noise()
    # the one claim of the answer was not entailed by the truth the first time, and was the second: precision 0, then 1
    assert found["precision"]["sd"] == pytest.approx(0.5**0.5)
    assert found["precision"]["disagreement"] == 1.0
    assert found["claim_recall"]["sd"] == 0.0


def test_an_answer_that_cannot_be_judged_again_counts_with_the_worst(workspace, connection, tmp_path, chat):
    asked = openai(workspace, chat.url, repeats=2)
    chat.reply = labels(lambda reference: KNOWN)
    clients = judges.model_clients(asked, None)
    with judges.opened(workspace, asked, clients, folder=tmp_path) as panel:
        labelled = [result("q1"), result("q2")]
        for one in labelled:
            panel.first.label(one)
        metrics = ragchecker_metrics.compute(labelled)
        chat.reply = lambda model_id, prompt: (
            "hm" if "Lunch." in prompt else labels(lambda reference: KNOWN)(model_id, prompt)
        )
        panel.judge_again(labelled, metrics)
        found = panel.noise()
    # recall 1 and 1, then 1 and 0: means 1 and .5
    assert found["recall"]["sd"] == pytest.approx(0.125**0.5)
    assert found["hallucination"]["disagreement"] == 0.5


def test_reader_and_judge_of_one_service_share_its_limits(workspace, chat):
    asked = openai(workspace, chat.url, reader=True)
    chat.service.slow_s = 0.05
    clients = judges.model_clients(asked, None)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda role: clients[role].complete("Who?", purpose=role), ["reader", "judge"] * 2))
    assert {entry["model"] for entry in chat.service.requests} == {"reader", "judge"}
    assert chat.service.most_in_flight == 1


def test_offline_there_is_no_client(workspace):
    assert judges.model_clients(settings(workspace), None) == {}


def test_the_environments_limits_and_seed_hold_for_every_service(workspace, converse, chat):
    asked = openai(workspace, chat.url)
    judge = judges.model_clients(asked, None)["judge"]
    assert (judge.identity["temperature"], judge.identity["seed"], judge.identity["address"]) == (0.0, 42, chat.url)
    bedrock = dataclasses.replace(asked, use_bedrock=True)
    assert {role: client.name for role, client in judges.model_clients(bedrock, None).items()} == {
        "reader": f"bedrock({asked.values['bedrock']['reader_model']})",
        "judge": f"bedrock({asked.values['bedrock']['judge_model']})",
    }


def test_an_evaluation_is_recomputed_from_what_is_stored_to_the_byte(
    workspace, connection, make_config, tmp_path, chat, monkeypatch
):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-test-0123456789")
    chat.reply = labels(lambda reference: KNOWN if len(chat.prompts) % 3 else "Neutral")  # not the same each time
    release = build(connection, workspace, make_config(chunk_size=60))
    asked = request(workspace, release, openai(workspace, chat.url, repeats=2, api_key_variable="OPENAI_API_KEY"))
    asked = dataclasses.replace(asked, audit_file=tmp_path / "audit.jsonl")
    found = run.evaluate(workspace, connection, asked, tmp_path / "first")
    first = contents(tmp_path / "first")
    count = len(chat.prompts)
    assert count > 0
    assert found.summary["produced_by"]["judge"] == "ragchecker over openai(judge)"
    assert found.summary["judge_noise"]["precision"]["repeats"] == 2

    run.evaluate(workspace, connection, asked, tmp_path / "again")  # out of the database
    assert (len(chat.prompts), contents(tmp_path / "again")) == (count, first)

    with connection, connection.cursor() as cursor:  # on another machine, out of the evidence
        cursor.execute("TRUNCATE golive.judgements")
    run.evaluate(workspace, connection, asked, tmp_path / "first")
    assert (len(chat.prompts), contents(tmp_path / "first")) == (count, first)

    assert rejudging.plan(tmp_path / "first")["cases"] == 2
    found = rejudging.rejudge(workspace, asked.settings, tmp_path / "first")  # its own answers, without its index
    assert (found.cases, found.differs, found.lost, len(chat.prompts)) == (2, [], {}, count)

    run.evaluate(workspace, connection, dataclasses.replace(asked, fresh_judging=True), tmp_path / "first")
    assert len(chat.prompts) == 2 * count

    chat.reply = lambda model_id, prompt: "hm" if "backup proven" in prompt else labels(lambda _: "Neutral")("", prompt)
    found = rejudging.rejudge(workspace, asked.settings, tmp_path / "again", fresh=True)
    assert (found.differs, list(found.lost)) == (["rollback-speed"], ["backup-proof"])
    assert found.noise["recall"]["disagreement"] in (0.0, 1.0)
    assert contents(tmp_path / "again") == first
    with pytest.raises(IntegrityMismatch, match=r"were judged by ragchecker over openai\(judge\)"):
        rejudging.rejudge(workspace, settings(workspace), tmp_path / "again")
    assert all(b"sk-of-the-test" not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_an_offline_evaluation_leaves_no_judgements_of_an_earlier_one(workspace, tmp_path):
    (tmp_path / "judgements.jsonl").write_text("{}\n")
    with judges.opened(workspace, settings(workspace), {}, folder=tmp_path) as panel:
        panel.write(tmp_path)
    assert list(tmp_path.glob("judgements.jsonl")) == []


def test_what_a_model_read_is_recomputed_from_what_is_stored_to_the_byte(
    workspace, connection, make_config, tmp_path, chat
):
    """Reader and judge are models, with three workers; neither says the same twice."""

    def reply(model_id: str, prompt: str) -> str:
        number = len(chat.prompts)
        if model_id == "judge":
            return labels(lambda reference: KNOWN if number % 3 else "Neutral")(model_id, prompt)
        return "I do not know." if "bread" in prompt else f"It is number {number}, in milliseconds."

    chat.reply = reply
    release = build(connection, workspace, make_config(chunk_size=60))
    asked = request(workspace, release, openai(workspace, chat.url, reader=True))
    found = run.evaluate(workspace, connection, asked, tmp_path / "first")
    first, count = contents(tmp_path / "first"), len(chat.prompts)
    records = [row["record"] for row in found.rows]
    assert {(record["model_id"], record["temperature"], record["seed"]) for record in records} == {("reader", 0.0, 42)}
    assert all((record["tokens"]["input"], record["tokens"]["output"]) == (2, 1) for record in records)
    assert [row["abstained"] for row in found.rows] == [False, True, False]
    read_ms = latencies(tmp_path / "first")

    chat.reply = lambda model_id, prompt: 500  # from here on, whoever asks gets no answer
    again = run.evaluate(workspace, connection, asked, tmp_path / "again")  # out of the database
    assert (len(chat.prompts), contents(tmp_path / "again"), again) == (count, first, found)
    assert latencies(tmp_path / "again") == read_ms  # what the model took then

    with connection, connection.cursor() as cursor:  # on another machine, out of the evidence
        cursor.execute("TRUNCATE golive.judgements")
    run.evaluate(workspace, connection, asked, tmp_path / "first")
    assert (len(chat.prompts), contents(tmp_path / "first")) == (count, first)

    chat.reply = reply
    fresh = run.evaluate(workspace, connection, dataclasses.replace(asked, fresh_judging=True), tmp_path / "first")
    assert sum(prompt.startswith(prompt_text("reader.v1")[:40]) for prompt in chat.prompts[count:]) == 3
    assert [row["response"] for row in fresh.rows] != [row["response"] for row in found.rows]

    count = len(chat.prompts)  # the database holds the fresh replies; those beside a recorded evaluation are its own
    run.evaluate(workspace, connection, dataclasses.replace(asked, recorded=tmp_path / "again"), tmp_path / "third")
    assert (len(chat.prompts), contents(tmp_path / "third")) == (count, first)


def test_an_offline_judge_keeps_what_a_model_read(workspace, connection, make_config, tmp_path, chat):
    chat.reply = lambda model_id, prompt: f"It is number {len(chat.prompts)}."
    release = build(connection, workspace, make_config(chunk_size=60))
    both = openai(workspace, chat.url, reader=True)
    alone = {**both.values, "judge": {**both.values["judge"], "served_by": "offline"}}
    asked = request(workspace, release, dataclasses.replace(both, values=alone))
    run.evaluate(workspace, connection, asked, tmp_path / "first")
    count = len(chat.prompts)
    run.evaluate(workspace, connection, asked, tmp_path / "again")
    assert (len(chat.prompts), contents(tmp_path / "again")) == (count, contents(tmp_path / "first"))
    assert len((tmp_path / "first" / "judgements.jsonl").read_text().splitlines()) == count == 3


def test_a_model_that_refuses_a_temperature_is_sent_none_and_that_is_said(
    workspace, connection, make_config, tmp_path, chat
):
    def answer(asked: dict[str, Any]) -> Answer:
        if "temperature" in asked:
            return 400, b'{"error": {"message": "Unsupported value: temperature"}}', {}
        text = labels(lambda reference: KNOWN)("", asked["messages"][0]["content"])
        said = text if asked["model"] == "judge" else "It takes milliseconds."
        content = {"choices": [{"message": {"content": said}, "finish_reason": "stop"}]}
        return 200, json.dumps(content).encode(), {}

    chat.service.answer = answer
    release = build(connection, workspace, make_config(chunk_size=60))
    sent = openai(workspace, chat.url, reader=True)
    refused = run.evaluate(workspace, connection, request(workspace, release, sent), tmp_path / "refused")
    assert len(refused.unscored) == 3 and "Unsupported value: temperature" in refused.rows[0]["unscored"]
    assert sent.remarks() == []

    none = {**sent.values, "openai": {**sent.values["openai"], "send_temperature": False}}
    settings = dataclasses.replace(sent, values=none)
    found = run.evaluate(workspace, connection, request(workspace, release, settings), tmp_path / "answered")
    assert found.unscored == set()
    assert {row["record"]["temperature"] for row in found.rows} == {None}
    assert settings.digest != sent.digest
    assert settings.remarks() == [
        f"{role} {role} is sent no temperature: it is not deterministic, and fresh replies may differ"
        for role in ("reader", "judge")
    ]
    assert settings.remarks("judge") == settings.remarks()[1:]


def latencies(folder: Path) -> list[float]:
    return [json.loads(line)["read_ms"] for line in (folder / "answers.jsonl").read_text().splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in (*METRIC_FILES, "judgements.jsonl")}


def labels(say: Any) -> Any:
    """A model that finds one claim in each text, and asks ``say`` whether a reference holds it."""

    def reply(model_id: str, prompt: str) -> str:
        if "### KG:" in prompt:
            return f"({json.dumps(prompt.rpartition('### Candidate Answer:')[2].split()[0])}, 'is', 'so')"
        reference = prompt.partition("### Reference:\n")[2].partition("\n\n### Claims:")[0]
        asked = prompt.partition("### Claims:\n")[2].partition("\n\n")[0].splitlines()
        return "\n".join(say(reference) for _ in asked)

    return reply


def result(query_id: str) -> Any:
    gt_answer, response = ANSWERS[query_id]
    return ragchecker_metrics.new_result(query_id, f"{query_id}?", gt_answer, response, [("1", "Seven stay here.")])


def answers(panel: judges.Judges) -> list[Any]:
    found = [result(query_id) for query_id in ANSWERS]
    for one in found:
        panel.first.label(one)
    return found


def settings(workspace: Workspace, *, repeats: int = 1) -> EvaluationSettings:
    loaded = evaluation_settings.load(workspace)
    return dataclasses.replace(loaded, values={**loaded.values, "judge": {**loaded.values["judge"], "repeats": repeats}})


def openai(
    workspace: Workspace, url: str, *, repeats: int = 1, reader: bool = False, api_key_variable: str = ""
) -> EvaluationSettings:
    """Settings that judge (and read) over a stand-in, without its rate limit and with one attempt."""
    loaded = settings(workspace, repeats=repeats)
    served = {
        "base_url": url,
        "allow_internal": True,
        "api_key_variable": api_key_variable,
        "reader_model": "reader",
        "judge_model": "judge",
        "attempts": 1,
    }
    values = {
        **loaded.values,
        "judge": {**loaded.values["judge"], "served_by": "openai"},
        "reader": {**loaded.values["reader"], "served_by": "openai" if reader else "offline"},
        "openai": {**loaded.values["openai"], **served},
    }
    fast = dataclasses.replace(loaded.determinism, bedrock_requests_per_second=1000.0)
    return dataclasses.replace(loaded, values=values, determinism=fast)
