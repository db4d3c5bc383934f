"""Layers: base file, environment's file, variables, flags; the later one wins, and each value says where it is from."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from lib.config import layers
from lib.platform.errors import ConfigInvalid, NotFound
from lib.platform.workspace import Workspace

_NO_NAME = ["Staging", "1st", "../candidate", "a.b", "a b", "-x"]


def test_the_base_file_alone_gives_every_value_its_line(workspace: Workspace) -> None:
    loaded = layers.load(workspace, "candidate")
    assert loaded.values["chunk_size"] == 450
    assert loaded.values["retrieval"]["bm25_k1"] == 1.2
    text = (workspace.configs / "candidate.yaml").read_text()
    for key, prefix in (("chunk_size", "chunk_size:"), ("retrieval.bm25_k1", "  bm25_k1:"), ("filter", "filter:")):
        assert loaded.origins[key] == f"configs/candidate.yaml:{_line_of(text, prefix)}"


def test_an_environments_file_lies_over_the_base_key_by_key(workspace: Workspace) -> None:
    _write(workspace, "candidate.staging.yaml", "chunk_size: 300\nretrieval:\n  vector_top_k: 50\nsources: [a, b]\n")
    loaded = layers.load(workspace, "candidate", environment="staging")
    assert loaded.values["chunk_size"] == 300
    assert loaded.values["retrieval"]["vector_top_k"] == 50
    assert loaded.values["retrieval"]["bm25_top_k"] == 40
    assert loaded.values["sources"] == ["a", "b"]
    assert loaded.origins["chunk_size"] == "configs/candidate.staging.yaml:1"
    assert loaded.origins["retrieval.vector_top_k"] == "configs/candidate.staging.yaml:3"
    assert loaded.origins["retrieval.bm25_top_k"].startswith("configs/candidate.yaml:")


def test_without_an_environment_its_file_is_not_read(workspace: Workspace) -> None:
    _write(workspace, "candidate.staging.yaml", "chunk_size: 300\n")
    assert layers.load(workspace, "candidate").values["chunk_size"] == 450


def test_an_environment_may_leave_a_config_as_it_is(workspace: Workspace) -> None:
    _write(workspace, "gates.staging.yaml", "min_cases: 5\n")
    assert layers.environment_name(workspace, {"GOLIVE_ENV": "staging"}) == "staging"
    assert layers.load(workspace, "candidate", environment="staging") == layers.load(workspace, "candidate")
    assert layers.load(workspace, "gates", environment="staging").values["min_cases"] == 5


@pytest.mark.parametrize("chosen", list(itertools.product([False, True], repeat=3)))
def test_flags_win_over_variables_over_the_environments_file_over_the_base(
    chosen: tuple[bool, bool, bool], workspace: Workspace
) -> None:
    with_file, with_variable, with_flag = chosen
    if with_file:
        _write(workspace, "candidate.staging.yaml", "chunk_size: 301\n")
    over = {
        **layers.from_environment({"CHUNK_SIZE": "302"} if with_variable else {}),
        **layers.from_flags({"chunk_size": "303" if with_flag else None}),
    }
    loaded = layers.load(workspace, "candidate", environment="staging", over=over)
    base_line = _line_of((workspace.configs / "candidate.yaml").read_text(), "chunk_size:")
    value, origin = (
        (303, "flag --chunk-size")
        if with_flag
        else (302, "environment variable CHUNK_SIZE")
        if with_variable
        else (301, "configs/candidate.staging.yaml:1")
        if with_file
        else (450, f"configs/candidate.yaml:{base_line}")
    )
    assert (loaded.values["chunk_size"], loaded.origins["chunk_size"]) == (value, origin)


def test_four_variables_are_read_and_empty_ones_count_as_unset() -> None:
    environ = {
        "CHUNK_SIZE": "300",
        "OVERLAP_RATIO": "0.2",
        "JACCARD_THRESHOLD": "",
        "PREFIX_POLICY": "B",
        "EMBEDDER": "other",
    }
    assert layers.from_environment(environ) == {
        "chunk_size": ("environment variable CHUNK_SIZE", 300),
        "overlap_ratio": ("environment variable OVERLAP_RATIO", 0.2),
        "prefix_policy": ("environment variable PREFIX_POLICY", "B"),
    }


def test_a_flag_that_was_not_given_changes_nothing() -> None:
    assert layers.from_flags({"chunk_size": None, "prefix_policy": "B"}) == {"prefix_policy": ("flag --prefix-policy", "B")}


@pytest.mark.parametrize("text", ["012", "1e3", "12:30:00", ".nan", "no", "450.5", "null", "450 tokens", "true"])
def test_a_variable_that_is_no_number_is_named(text: str, workspace: Workspace) -> None:
    over = layers.from_environment({"CHUNK_SIZE": text})
    with pytest.raises(ConfigInvalid, match="environment variable CHUNK_SIZE: chunk_size must be of type integer"):
        layers.load(workspace, "candidate", over=over)


def test_a_number_too_long_to_be_meant_is_named() -> None:
    with pytest.raises(ConfigInvalid, match="environment variable CHUNK_SIZE: a number of 5000 characters"):
        layers.from_environment({"CHUNK_SIZE": "1" * 5000})


def test_a_flag_that_is_no_number_is_named(workspace: Workspace) -> None:
    over = layers.from_flags({"overlap_ratio": "ten percent"})
    with pytest.raises(
        ConfigInvalid, match="flag --overlap-ratio: overlap_ratio must be of type number, not 'ten percent'"
    ):
        layers.load(workspace, "candidate", over=over)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("chunk_sise: 1\n", "configs/candidate.staging.yaml:1: unknown key 'chunk_sise' (did you mean chunk_size?)"),
        (
            "retrieval:\n  vector_topk: 1\n",
            "configs/candidate.staging.yaml:2: unknown key 'vector_topk' (did you mean vector_top_k?)",
        ),
        ("zzz: 1\n", "configs/candidate.staging.yaml:1: unknown key 'zzz'"),
        ("\nsources: []\n", "configs/candidate.staging.yaml:2: sources needs at least 1 entries"),
        ("retrieval:\n  bm25_b: 1.5\n", "configs/candidate.staging.yaml:2: retrieval.bm25_b must be at most 1, not 1.5"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_line(text: str, complaint: str, workspace: Workspace) -> None:
    _write(workspace, "candidate.staging.yaml", text)
    with pytest.raises(ConfigInvalid) as caught:
        layers.load(workspace, "candidate", environment="staging")
    assert caught.value.message == complaint


def test_an_error_within_a_list_is_placed_at_the_list(workspace: Workspace) -> None:
    _write(workspace, "candidate.staging.yaml", "\n\nsources: [corpus, 5]\n")
    with pytest.raises(ConfigInvalid, match=r"^configs/candidate\.staging\.yaml:3: sources\.1 must be of type string"):
        layers.load(workspace, "candidate", environment="staging")


def test_another_base_file_is_taken_from_the_project(workspace: Workspace) -> None:
    text = (workspace.configs / "candidate.yaml").read_text()
    _write(workspace, "trial.yaml", text.replace("chunk_size: 450", "chunk_size: 200"))
    loaded = layers.load(workspace, "candidate", file="configs/trial.yaml")
    assert loaded.values["chunk_size"] == 200
    assert loaded.origins["chunk_size"].startswith("configs/trial.yaml:")


def test_a_missing_base_file_is_not_found(workspace: Workspace) -> None:
    with pytest.raises(NotFound, match=r"no config at .*configs/none\.yaml"):
        layers.load(workspace, "candidate", file="configs/none.yaml")


@pytest.mark.parametrize("environ", [{}, {"GOLIVE_ENV": ""}])
def test_no_environment_is_chosen_by_default(environ: dict[str, str], workspace: Workspace) -> None:
    assert layers.environment_name(workspace, environ) is None


def test_an_environment_without_files_is_not_found(workspace: Workspace) -> None:
    with pytest.raises(NotFound, match=r"no configs/\*\.prod\.yaml") as caught:
        layers.environment_name(workspace, {"GOLIVE_ENV": "prod"})
    assert "configs/candidate.prod.yaml" in caught.value.hint


@pytest.mark.parametrize("name", _NO_NAME)
def test_an_environments_name_cannot_lead_to_another_file(name: str, workspace: Workspace) -> None:
    with pytest.raises(ConfigInvalid, match="cannot be the name of an environment"):
        layers.environment_name(workspace, {"GOLIVE_ENV": name})


@pytest.mark.parametrize(("dotted", "place"), [("a.b", "f:2"), ("a.b.c", "f:2"), ("a.z", "f:1"), ("z", "f"), ("", "f")])
def test_a_key_without_a_line_is_placed_at_the_nearest_thing_around_it(dotted: str, place: str) -> None:
    assert layers.Layered({}, {"a": "f:1", "a.b": "f:2", "": "f"}).where(dotted) == place


def _write(workspace: Workspace, name: str, text: str) -> Path:
    path = workspace.configs / name
    path.write_text(text, encoding="utf-8")
    return path


def _line_of(text: str, prefix: str) -> int:
    return next(number for number, line in enumerate(text.splitlines(), 1) if line.startswith(prefix))
