"""What an evaluation runs with: ``configs/evaluation.yaml`` and the deterministic environment."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from lib.config import embedder_files, layers
from lib.platform.errors import ConfigInvalid, GoliveError
from lib.platform.files import digest_of, read_text, sha256_file
from lib.platform.workspace import Workspace

# Only what a shell takes as it stands: no expansion, no escape, no comment or second word after the value.
_EXPORT = re.compile(r"""export ([A-Z][A-Z0-9_]*)=(?:([\w.,:/=+@%-]*)|"([^"$`\\]*)"|'([^']*)')""", re.ASCII)
_MAX_WORKERS = 3
_MAX_REQUESTS_PER_SECOND = 0.12
_SEED = 42
_PROMPTS = Path(__file__).parent / "prompts"

Role = Literal["reader", "judge"]
ROLES: tuple[Role, ...] = ("reader", "judge")


@dataclass(frozen=True)
class Determinism:
    """The deterministic environment, as values. Timeouts are in seconds.

    What is named after Bedrock holds for every model service. ``cache_disabled``: no result is taken from an earlier run;
    stored judgements are no such cache (docs/adr/0011-stored-judgements.md).
    """

    temperature: float
    cache_disabled: bool
    prompt_audit: bool
    seed: int
    few_shot_ids: tuple[str, ...]
    chain_of_thought: bool
    max_workers: int
    bedrock_max_in_flight: int
    bedrock_requests_per_second: float
    bedrock_call_timeout_s: float
    bedrock_text_timeout_s: float

    def problems(self) -> list[str]:
        """Why an evaluation under these settings would not be reproducible, or not safe for the model service."""
        found = []
        if self.temperature != 0:
            found.append(f"TEMPERATURE is {self.temperature:g}, not 0")
        if not self.cache_disabled:
            found.append("EVAL_DISABLE_CACHE is not 1")
        if not self.prompt_audit:
            found.append("PROMPT_AUDIT is not 1")
        if self.seed != _SEED:
            found.append(f"RANDOM_SEED is {self.seed}, not {_SEED}")
        if not 1 <= self.max_workers <= _MAX_WORKERS:
            found.append(f"MAX_WORKERS is {self.max_workers}, not 1 to {_MAX_WORKERS}")
        if self.bedrock_max_in_flight != 1:
            found.append(f"BEDROCK_MAX_IN_FLIGHT is {self.bedrock_max_in_flight}, not 1")
        if not 0 < self.bedrock_requests_per_second <= _MAX_REQUESTS_PER_SECOND:
            found.append(f"BEDROCK_REQUESTS_PER_SECOND is over {_MAX_REQUESTS_PER_SECOND}")
        if not 0 < self.bedrock_text_timeout_s <= self.bedrock_call_timeout_s:
            found.append("BEDROCK_TEXT_TIMEOUT_S must be over 0 and at most BEDROCK_CALL_TIMEOUT_S")
        return found


@dataclass(frozen=True)
class EvaluationSettings:
    """Reader, judge and prompts by name, with the deterministic environment."""

    values: dict[str, Any]
    determinism: Determinism
    use_bedrock: bool  # as it was asked for on the command line
    reader_embedder: dict[str, Any] | str | None  # of the offline reader and judge: what decides vectors

    @property
    def digest(self) -> str:
        """Covers everything that decides an answer or a judgement: the prompts' texts, the offline reader's weights,
        models with their addresses. Not how many workers ask, how long replies are stored or where a key is found, and
        never a key.
        """
        found = self.to_dict()
        return digest_of({**found, "determinism": {k: v for k, v in found["determinism"].items() if k != "max_workers"}})

    def service(self, role: Role) -> str:
        """Who serves the reader or the judge: ``offline``, ``bedrock`` or ``openai``."""
        return _service(self.values, role, self.use_bedrock)

    def model(self, role: Role) -> str | None:
        """The id of the model that reads or judges; None offline."""
        service = self.service(role)
        return None if service == "offline" else str(self.values[service][f"{role}_model"])

    def temperature(self, role: Role) -> float | None:
        """The temperature that the reader or the judge is asked with; None where its service is sent none."""
        service = self.service(role)
        sent = service == "offline" or self.values[service]["send_temperature"]
        return self.determinism.temperature if sent else None

    def remarks(self, *roles: Role) -> list[str]:
        """What one who reads a verdict has to know of who reads and judges, or of some ``roles`` alone."""
        return [
            f"{role} {self.model(role)} is sent no temperature: it is not deterministic, and fresh replies may differ"
            for role in roles or ROLES
            if self.temperature(role) is None
        ]

    def to_dict(self) -> dict[str, Any]:
        openai = {name: value for name, value in self.values["openai"].items() if name != "api_key_variable"}
        # the system under test is no part of how it is judged: two of them are compared under equal settings
        values = {name: value for name, value in self.values.items() if name not in ("system", "stored_replies")}
        return {
            "served_by": {role: self.service(role) for role in ROLES},
            "settings": {**values, "openai": openai},
            "determinism": asdict(self.determinism),
            "reader_embedder": self.reader_embedder,
            "prompt_hashes": {name: prompt_hash(name) for name in sorted(self.values["prompts"].values())},
        }


def load(workspace: Workspace, *, use_bedrock: bool = False) -> EvaluationSettings:
    """Reads both files, with the environment's layer over ``evaluation.yaml``.

    Raises:
        ConfigInvalid, NotFound: naming the file, line or variable.
    """
    environment = layers.environment_name(workspace, os.environ)
    layered = layers.load(workspace, "evaluation", environment=environment)
    offline = any(_service(layered.values, role, use_bedrock) == "offline" for role in ROLES)
    embedder = _identity(workspace, layered.values["reader"]["embedder"]) if offline else None
    return EvaluationSettings(layered.values, determinism(workspace, os.environ), use_bedrock, embedder)


def _service(values: dict[str, Any], role: Role, use_bedrock: bool) -> str:
    return "bedrock" if use_bedrock else str(values[role]["served_by"])


def _identity(workspace: Workspace, embedder: str) -> dict[str, Any] | str:
    """What decides an embedder's vectors; "missing" where it is not here, and then no evaluation runs with it."""
    try:
        found = embedder_files.find(workspace, embedder)
    except GoliveError:
        return "missing"
    return {name: value for name, value in asdict(found).items() if name != "folder"}


def environment_file(workspace: Workspace) -> dict[str, str]:
    """The variables of ``configs/deterministic_evaluation.env``, as a shell would export them."""
    path = workspace.configs / "deterministic_evaluation.env"
    found = {}
    for number, line in enumerate(read_text(path, "deterministic environment").split("\n"), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _EXPORT.fullmatch(line)
        if match is None:
            raise ConfigInvalid(
                f"{workspace.show(path)}:{number}: not of the form export NAME=value",
                hint="one plain or quoted value a line, without $ or \\, and nothing after it",
            )
        found[match[1]] = match[2] or match[3] or match[4] or ""
    return found


def overridden(workspace: Workspace, environ: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Variables whose value in the environment differs from the file's: name → (file, environment)."""
    return {
        name: (value, environ[name])
        for name, value in environment_file(workspace).items()
        if name in environ and environ[name] != value
    }


def determinism(workspace: Workspace, environ: Mapping[str, str]) -> Determinism:
    """The settings in force: the environment's where set, else the file's.

    Raises:
        ConfigInvalid: a value cannot be read; the variable is named.
    """
    values = {**environment_file(workspace), **{k: v for k, v in environ.items() if k in environment_file(workspace)}}

    def number(name: str) -> float:
        try:
            found = float(values[name])
        except (KeyError, ValueError):
            found = math.nan
        if not math.isfinite(found):
            raise ConfigInvalid(f"{name} must be a number, not {values.get(name)!r}")
        return found

    def whole(name: str) -> int:
        if not (found := number(name)).is_integer():
            raise ConfigInvalid(f"{name} must be a whole number, not {values[name]!r}")
        return int(found)

    return Determinism(
        temperature=number("TEMPERATURE"),
        cache_disabled=values.get("EVAL_DISABLE_CACHE") == "1",
        prompt_audit=values.get("PROMPT_AUDIT") == "1",
        seed=whole("RANDOM_SEED"),
        few_shot_ids=tuple(filter(None, values.get("FEW_SHOT_IDS", "").split(","))),
        chain_of_thought=values.get("CHAIN_OF_THOUGHT") == "1",
        max_workers=whole("MAX_WORKERS"),
        bedrock_max_in_flight=whole("BEDROCK_MAX_IN_FLIGHT"),
        bedrock_requests_per_second=number("BEDROCK_REQUESTS_PER_SECOND"),
        bedrock_call_timeout_s=number("BEDROCK_CALL_TIMEOUT_S"),
        bedrock_text_timeout_s=number("BEDROCK_TEXT_TIMEOUT_S"),
    )


def prompt_text(name: str) -> str:
    return _prompt_file(name).read_text(encoding="utf-8")


def prompt_hash(name: str) -> str:
    """SHA-256 of a prompt's file."""
    return sha256_file(_prompt_file(name))


def _prompt_file(name: str) -> Path:
    path = _PROMPTS / f"{name}.txt"
    if not path.exists():
        raise ConfigInvalid(
            f"no prompt {name!r}", detail=f"known: {', '.join(sorted(p.stem for p in _PROMPTS.glob('*.txt')))}"
        )
    return path
