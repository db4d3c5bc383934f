"""The steps of a release: which script each one is, with which arguments, and when it need not be done again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from psycopg2.extensions import connection as Connection

from lib.evaluation import settings as evaluation_settings
from lib.index.releases import Release, read_pointer
from lib.index.seal import content_of
from lib.platform.errors import GoliveError, UsageError
from lib.platform.workspace import Workspace
from lib.release import assessment, attesting, manifest, receipts
from lib.release.promotion import backup_condition


@dataclass(frozen=True)
class Options:
    """What a release was asked for with. ``corpus`` is None where the documents stand as they are."""

    corpus: Path | None
    source: str
    cases: Path
    use_bedrock: bool
    fresh_judging: bool = False


@dataclass(frozen=True)
class Context:
    """What a step's receipt is held against."""

    workspace: Workspace
    connection: Connection
    release: Release
    options: Options


@dataclass(frozen=True)
class Step:
    """One script of the chain. ``holds`` is None for a step that always looks again."""

    name: str
    script: str
    arguments: Callable[[Options], list[str]]
    holds: Callable[[Context], bool] | None = None


def find(names: list[str]) -> list[Step]:
    """Raises UsageError for a name that is no step."""
    known = {step.name: step for step in STEPS}
    for name in names:
        if name not in known:
            raise UsageError(f"no step {name!r}", hint=f"the steps are: {' '.join(known)}")
    return [known[name] for name in names]


def _cases(options: Options) -> list[str]:
    return ["--cases", str(options.cases)]


def _bedrock(options: Options) -> list[str]:
    return ["--use-bedrock"] if options.use_bedrock else []


def _fresh(options: Options) -> list[str]:
    return ["--fresh-judging"] if options.fresh_judging else []


def _ingest_holds(context: Context) -> bool:
    release = context.release
    with context.connection:
        content = content_of(context.connection, release.table_schema, release.table_name)
    # documents that changed since it was sealed are brought in by catching up
    return content is not None and content.digest == release.content_digest


def _manifest_holds(context: Context) -> bool:
    settings = evaluation_settings.load(context.workspace, use_bedrock=context.options.use_bedrock)
    now = manifest.build(
        context.workspace, context.connection, context.release, cases_path=context.options.cases, settings=settings
    )
    inputs = {"manifest_digest": manifest.digest(now), "use_bedrock": context.options.use_bedrock}
    return (
        receipts.holds(context.workspace, context.release.release_id, "manifest", inputs)
        and _manifest_reads(context, manifest.digest(now))
        and not _to_be_signed(context, manifest.find(context.workspace, context.release.release_id))
    )


def _to_be_signed(context: Context, path: Path | None) -> bool:
    """Whether there is a signing key now that has not signed the file: then its step is done again."""
    return path is not None and attesting.unsigned_by(path, attesting.signer())


def _manifest_reads(context: Context, digest: str) -> bool:
    path = manifest.find(context.workspace, context.release.release_id)
    try:
        return path is not None and manifest.digest(manifest.read(path)) == digest
    except GoliveError:
        return False


def _evaluate_holds(context: Context) -> bool:
    if context.options.fresh_judging:
        return False
    settings = evaluation_settings.load(context.workspace, use_bedrock=context.options.use_bedrock)
    inputs = assessment.expected_inputs(
        context.workspace, context.connection, context.release, cases_path=context.options.cases, settings=settings
    )
    return (
        receipts.holds(context.workspace, context.release.release_id, "evaluate", inputs)
        and assessment.stands(context.workspace, context.connection, context.release, context.options.cases)
        and not _to_be_signed(context, context.workspace.evidence(context.release.release_id) / "verdict.json")
    )


def _backup_holds(context: Context) -> bool:
    with context.connection:
        live = read_pointer(context.connection).release
        stands = backup_condition(context.workspace, context.connection, context.release, live).holds
    return stands and receipts.read(context.workspace, context.release.release_id, "backup") is not None


STEPS = (
    Step("sync", "sync_documents.py", lambda options: [str(options.corpus), "--source", options.source]),
    Step("lock", "lock_production_config.py", lambda options: ["--source", options.source] if options.source else []),
    Step("ingest", "shadow_ingest.py", _cases, _ingest_holds),
    Step("manifest", "eval_manifest_generator.py", lambda options: [*_cases(options), *_bedrock(options)], _manifest_holds),
    Step("health", "health_gated_evaluation.py", lambda options: ["--check-only", *_bedrock(options)]),
    Step(
        "evaluate",
        "production_evaluation.py",
        lambda options: ["--skip-ingest", "--no-report", *_cases(options), *_bedrock(options), *_fresh(options)],
        _evaluate_holds,
    ),
    Step("backup", "backup_production_state.py", lambda options: [], _backup_holds),
    Step("validate", "production_validation.py", lambda options: ["--full-check", *_cases(options)]),
    Step("promote", "promote_production_config.py", lambda options: []),
)
