"""How an index is built: the shipped file loads, EXECUTOR wins over it, and what cannot be is refused with its place."""

from __future__ import annotations

import pytest

from lib.index import settings
from lib.platform.errors import ConfigInvalid
from lib.platform.workspace import Workspace


def test_the_shipped_settings_build_locally(workspace: Workspace) -> None:
    found = settings.load(workspace)
    assert found.build.executor == "local"
    assert found.recall.minimum_floor <= found.recall.mean_floor <= 1
    assert found.catch_up.bake_hours == 48


def test_the_executor_of_the_environment_wins(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXECUTOR", "dask://scheduler:8786")
    assert settings.load(workspace).build.executor == "dask://scheduler:8786"


@pytest.mark.parametrize("executor", ["threads", "dask:scheduler", "dask://", "spark://host:1"])
def test_an_executor_that_is_none_is_refused_by_its_variable(
    executor: str, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXECUTOR", executor)
    with pytest.raises(ConfigInvalid, match="environment variable EXECUTOR"):
        settings.load(workspace)


def test_a_misspelt_setting_is_named_with_its_line(workspace: Workspace) -> None:
    file = workspace.configs / "index.yaml"
    file.write_text(file.read_text(encoding="utf-8").replace("mean_floor:", "mean_flor:"), encoding="utf-8")
    with pytest.raises(ConfigInvalid, match=r"configs/index\.yaml:\d+: unknown key 'mean_flor'"):
        settings.load(workspace)
