"""One object says where a project's files lie."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib.platform.workspace import Workspace


def test_golive_home_names_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOLIVE_HOME", str(tmp_path))
    assert Workspace.find().root == tmp_path.resolve()


@pytest.mark.parametrize("home", [None, ""])
def test_without_golive_home_it_is_the_checkout(home: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOLIVE_HOME", raising=False)
    if home is not None:
        monkeypatch.setenv("GOLIVE_HOME", home)
    assert (Workspace.find().configs / "candidate.yaml").exists()
    assert (Workspace.find().root / "lib" / "platform" / "workspace.py").exists()


def test_every_place_lies_in_the_project() -> None:
    root = Path("/project")
    workspace = Workspace(root)
    assert workspace.configs == root / "configs"
    assert workspace.locked_configs == root / "configs/locked_configs"
    assert workspace.backups == root / ".local/backups"
    assert workspace.default_corpus == root / "eval/corpus"
    assert workspace.default_cases == root / "eval/test_cases.json"
    assert workspace.evaluations == root / "metrics/baseline_evaluations"
    assert workspace.evidence("r-1") == root / "metrics/golive/r-1"


def test_a_path_is_shown_as_a_person_types_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "project")
    monkeypatch.setenv("GOLIVE_HOME", str(tmp_path / "link"))
    workspace = Workspace.find()
    assert workspace.show(workspace.configs / "gates.yaml") == "configs/gates.yaml"
    assert workspace.show(tmp_path / "link" / "configs") == "configs"
    assert workspace.show(tmp_path / "elsewhere") == str(tmp_path / "elsewhere")
