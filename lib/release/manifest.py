"""The run manifest: everything that an evaluation's outcome depends on, in one file; and what has changed since."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from psycopg2.extensions import connection as Connection

from lib.config import schemas, strict_yaml
from lib.evaluation import cases as case_files
from lib.evaluation import run
from lib.evaluation.offline_judge import offline_judge_name
from lib.evaluation.settings import EvaluationSettings
from lib.index.documents import corpus_digest
from lib.index.releases import Release
from lib.platform import postgres
from lib.platform.clock import timestamp
from lib.platform.files import digest_of, pretty_json, read_json, write_text
from lib.platform.lease import who
from lib.platform.workspace import Workspace
from lib.release.gates import load_gates

FORMATS = ("yaml", "json")
# What a difference is about, by the field's first name. Numbers under another of the DECISIVE groups cannot be compared;
# a difference in the rest is said, and they can. A field that stands in none of them is decisive.
_GROUPS = {
    "config": ("release_id", "chunk_version", "ingest_run_id", "config_hash", "config_digest", "chunking", "retrieval",
               "rerank", "filter"),
    "index": ("index",),
    "corpus": ("corpus",),
    "cases": ("cases",),
    "models": ("models",),
    "prompts": ("prompts", "few_shot_ids", "chain_of_thought"),
    "settings": ("evaluation", "seed"),
    "gates": ("thresholds",),
    "code": ("code",),
    "packages": ("packages",),
    "platform": ("platform",),
}  # fmt: skip
_NOT_DECISIVE = {"gates", "code", "packages", "platform"}
_WHERE_AND_HOW_FAST = {"cases.file", "evaluation.max_workers"}
# What an evaluation's inputs name too, and where a manifest names it: what decides its numbers, and what made them.
INPUTS = {
    "config_hash": ("config_hash",),
    "content_digest": ("index", "content_digest"),
    "cases_digest": ("cases", "digest"),
    "gold_corpus_digest": ("corpus", "digest"),
    "settings_digest": ("evaluation", "settings_digest"),
}
CODE_INPUTS = {"code_digest": ("code", "digest"), "packages": ("packages",)}
_UNCOMPARED = {"generated_at", "generated_by"}


def build(
    workspace: Workspace, connection: Connection, release: Release, *, cases_path: Path, settings: EvaluationSettings
) -> dict[str, Any]:
    """The manifest of a release as things stand now.

    Raises:
        NotFound, ConfigInvalid: the cases or a config cannot be read.
    """
    config = release.locked_config
    gates = load_gates(workspace)
    cases = case_files.load(cases_path)
    with connection:
        documents = corpus_digest(connection, config.sources)
        server = postgres.one(
            connection,
            "SELECT current_setting('server_version') AS postgresql,"
            " (SELECT extversion FROM pg_extension WHERE extname = 'vector') AS pgvector",
        )
    offline = settings.values["reader"]["embedder"]
    manifest = {
        "manifest_version": 1,
        "generated_at": timestamp(),
        "generated_by": who(),
        "release_id": release.release_id,
        "chunk_version": config.chunk_version,
        "ingest_run_id": config.ingest_run_id,
        "config_hash": config.config_hash,
        "config_digest": config.digest,
        "chunking": {
            name: getattr(config, name) for name in ("chunk_size", "overlap_ratio", "jaccard_threshold", "prefix_policy")
        },
        "models": {
            "embedder": {
                "id": config.embedder_name,
                "weights_hash": config.embedder_weights_hash,
                "tokenizer": config.tokenizer_name,
                "tokenizer_hash": config.tokenizer_hash,
                "dimension": config.embedder_dimension,
                "max_sequence_length": config.embedder_max_sequence_length,
            },
            "reranker": {"id": config.rerank.model},
            "reader": {"id": settings.model("reader") or f"extractive({offline})"},
            "judge": {"id": settings.model("judge") or offline_judge_name(offline, settings.values["judge"])},
        },
        "retrieval": asdict(config.retrieval),
        "rerank": asdict(config.rerank),
        "filter": asdict(config.filter),
        "thresholds": {"digest": digest_of(gates), **gates},
        "evaluation": {
            "use_bedrock": settings.use_bedrock,
            "settings_digest": settings.digest,
            **{name: value for name, value in asdict(settings.determinism).items() if name != "few_shot_ids"},
        },
        "prompts": settings.to_dict()["prompt_hashes"],
        "few_shot_ids": list(settings.determinism.few_shot_ids),
        "chain_of_thought": settings.determinism.chain_of_thought,
        "seed": settings.determinism.seed,
        "corpus": {"sources": list(config.sources), "digest": documents},
        "cases": {"file": workspace.show(cases_path.resolve()), "digest": cases.digest, "count": cases.count},
        "index": {"table": release.table_name, "content_digest": release.content_digest, "rows": release.row_count},
        "packages": run.package_versions(),
        "code": {"digest": run.code_digest(), **_git(workspace)},
        "platform": {"python": platform.python_version(), "machine": platform.machine(), **(server or {})},
    }
    schemas.check(manifest, "manifest", lambda dotted: f"manifest: {dotted}")
    return manifest


def write(folder: Path, manifest: dict[str, Any], form: str) -> Path:
    path = folder / f"manifest.{form}"
    write_text(path, pretty_json(manifest) if form == "json" else strict_yaml.dump(manifest))
    for other in FORMATS:  # one manifest a release: an older one in the other form would be found first
        if other != form:
            (folder / f"manifest.{other}").unlink(missing_ok=True)
    return path


def read(path: Path) -> dict[str, Any]:
    """Raises NotFound, ConfigInvalid where the file is none of ours."""
    values = read_json(path, "manifest") if path.suffix == ".json" else strict_yaml.load(path, "manifest").values
    schemas.check(values, "manifest", lambda dotted: f"{path}: {dotted}")
    return dict(values)


def find(workspace: Workspace, release_id: str) -> Path | None:
    """The manifest among a release's evidence, where there is one."""
    return find_in(workspace.evidence(release_id))


def find_in(folder: Path) -> Path | None:
    """The manifest in a folder of evidence, where there is one."""
    return next((path for form in FORMATS if (path := folder / f"manifest.{form}").exists()), None)


def input_of(manifest: dict[str, Any], name: str) -> Any:
    """What a manifest says of one of ``INPUTS``, or of ``CODE_INPUTS``; None where it says nothing."""
    value: Any = manifest
    for key in {**INPUTS, **CODE_INPUTS}[name]:
        value = value.get(key)
    return value


def digest(manifest: dict[str, Any]) -> str:
    """SHA-256 over what is compared: equal manifests of different moments have equal digests."""
    return digest_of({field: value for field, value in _flatten(manifest) if field not in _UNCOMPARED | {"code.git_dirty"}})


def evaluated_digest(manifest: dict[str, Any]) -> str:
    """SHA-256 over what an evaluation can depend on, which a verdict names: ``digest`` without the commit.

    The code's own digest stands in the manifest; a commit that changes none of it must not cost an evaluation.
    """
    left_out = _UNCOMPARED | {"code.git_dirty", "code.git_commit"}
    return digest_of({field: value for field, value in _flatten(manifest) if field not in left_out})


def differences(then: dict[str, Any], now: dict[str, Any]) -> list[dict[str, Any]]:
    """Field by field what has changed: ``{field, then, now}`` in the order of the names; who and when are left out."""
    before, after = dict(_flatten(then)), dict(_flatten(now))
    return [
        {"field": field, "then": before.get(field), "now": after.get(field)}
        for field in sorted(before.keys() | after.keys())
        if field not in _UNCOMPARED and before.get(field) != after.get(field)
    ]


def group_of(field: str) -> str:
    """What a field that ``differences`` names is about."""
    head = field.partition(".")[0]
    return next((group for group, names in _GROUPS.items() if head in names), "unknown")


def is_decisive(field: str) -> bool:
    """Whether another value there makes numbers incomparable."""
    return field not in _WHERE_AND_HOW_FAST and group_of(field) not in _NOT_DECISIVE


def differences_text(changed: list[dict[str, Any]]) -> list[str]:
    """A line a difference, each after its group."""
    return [f"{group_of(item['field'])}: {item['field']}: was {item['then']}, is {item['now']}" for item in changed]


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _git(workspace: Workspace) -> dict[str, Any]:
    """The commit and whether the checkout differs from it; nulls outside of a checkout."""
    commit = _git_says(workspace, "rev-parse", "HEAD")
    changes = _git_says(workspace, "status", "--porcelain")
    return {"git_commit": commit, "git_dirty": None if changes is None else bool(changes)}


def _git_says(workspace: Workspace, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(workspace.root), *arguments], capture_output=True, text=True, timeout=30)  # nosec B607  # git as the user's PATH has it
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
