"""Where a project's files lie: one object that every other module is given instead of looking for itself."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
ENVIRONMENT_VARIABLE = "GOLIVE_ENV"  # the profile: which layer of the configs is laid over them


@dataclass(frozen=True)
class Workspace:
    """The folder that holds ``configs/``, ``eval/``, ``metrics/`` and ``.local/``."""

    root: Path

    @classmethod
    def find(cls) -> Workspace:
        """The folder that ``GOLIVE_HOME`` names, else the checkout this file belongs to."""
        home = os.environ.get("GOLIVE_HOME")
        return cls(Path(home).resolve() if home else CHECKOUT)

    @property
    def configs(self) -> Path:
        return self.root / "configs"

    @property
    def locked_configs(self) -> Path:
        return self.configs / "locked_configs"

    @property
    def local(self) -> Path:
        return self.root / ".local"

    @property
    def backups(self) -> Path:
        return self.local / "backups"

    @property
    def default_corpus(self) -> Path:
        return self.root / "eval" / "corpus"

    @property
    def default_cases(self) -> Path:
        return self.root / "eval" / "test_cases.json"

    @property
    def evaluations(self) -> Path:
        return self.root / "metrics" / "baseline_evaluations"

    def evidence(self, release_id: str) -> Path:
        return self.root / "metrics" / "golive" / release_id

    def calibration(self, release_id: str) -> Path:
        """What a calibration of the gate with real builds found for a release."""
        return self.root / "metrics" / "calibration" / f"{release_id}.json"

    def show(self, path: Path) -> str:
        """``path`` as a person would type it from the project's folder; absolute only outside of it."""
        try:
            return str(path.resolve().relative_to(self.root))
        except ValueError:
            return str(path)
