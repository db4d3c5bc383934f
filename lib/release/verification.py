"""Verifying a release's evidence: signatures, digests, and the chain from the verdict to what it was given for.

Works on a folder of evidence alone; what needs the database, the cases or a package that is not there is said to be
unchecked, which is never PASS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psycopg2.extensions import connection as Connection

from lib.evaluation import cases as case_files
from lib.evaluation import results
from lib.index.releases import Release, get_release
from lib.index.seal import content_of
from lib.platform import audit, postgres, signing
from lib.platform.errors import ConfigInvalid, ExitCode, GoliveError, IntegrityMismatch, NotFound, Unavailable
from lib.platform.files import canonical_json, digest_of, read_json, read_text
from lib.release import attesting, manifest
from lib.release.tables import text_table

if TYPE_CHECKING:
    from securesystemslib.signer import SSlibKey

WORDS = {"PASS": "PASS", "FAIL": "FAIL", "UNSIGNED": "UNSIGNED", "UNCHECKED": "could not check"}
_SHARED = (*manifest.INPUTS, *manifest.CODE_INPUTS)  # what a verdict's inputs and its manifest both name


@dataclass(frozen=True)
class Check:
    """One check: ``PASS``, ``FAIL``, ``UNSIGNED`` or ``UNCHECKED`` (it could not be looked at), and what was found."""

    name: str
    status: str
    found: str


@dataclass(frozen=True)
class Evidence:
    """A release's folder of evidence, and what it is held against. ``connection`` is None without a database."""

    release_id: str
    folder: Path
    project: Path
    keys: Mapping[str, SSlibKey]
    connection: Connection | None
    why_offline: str = ""

    @cached_property
    def manifest_path(self) -> Path:
        path = manifest.find_in(self.folder)
        if path is None:
            raise NotFound("there is no manifest")
        return path

    @cached_property
    def manifest(self) -> dict[str, Any]:
        return manifest.read(self.manifest_path)

    @cached_property
    def verdict(self) -> dict[str, Any]:
        found = read_json(self.folder / "verdict.json", "verdict")
        if not isinstance(found, dict) or not {"release_id", "verdict", "inputs", "metrics_digest"} <= found.keys():
            raise ConfigInvalid("verdict.json holds no verdict")
        return found

    @cached_property
    def evaluation(self) -> results.Evaluation:
        return results.read(self.folder / "evaluation")

    @cached_property
    def baseline(self) -> results.Evaluation | None:
        """The baseline's evaluation that the verdict names by its digest; None where it names none."""
        digest = self.verdict.get("baseline_metrics_digest")
        if self.verdict["baseline_release"] is None and digest is None:
            return None
        for place in (self.folder / "baseline", self.folder.parent / str(self.verdict["baseline_release"]) / "evaluation"):
            try:
                found = results.read(place)
            except GoliveError:
                continue
            if found.digest == digest:
                return found
        raise IntegrityMismatch("no evaluation of the baseline is here that has the digest in the verdict")

    def database(self) -> Connection:
        if self.connection is None:
            raise Unavailable(self.why_offline or "no database")
        return self.connection


def verify(evidence: Evidence) -> list[Check]:
    """Every check, in the order in which one builds on another."""
    return [_look(name, look, evidence) for name, look in CHECKS.items()]


def exit_code(checks: list[Check], *, allow_unsigned: bool) -> ExitCode:
    """14 where a check fails, else 13 where one could not look (or nothing is signed), else 0."""
    passing = {"PASS", "UNSIGNED"} if allow_unsigned else {"PASS"}
    if any(check.status == "FAIL" for check in checks):
        return ExitCode.INTEGRITY
    return ExitCode.DONE if checks and all(check.status in passing for check in checks) else ExitCode.UNAVAILABLE


def to_text(checks: list[Check]) -> str:
    return text_table([["check", "result", "found"], *([item.name, WORDS[item.status], item.found] for item in checks)])


def count(checks: list[Check]) -> dict[str, int]:
    """How many checks ended with each status."""
    return {status: sum(check.status == status for check in checks) for status in WORDS}


def as_dicts(checks: list[Check]) -> list[dict[str, str]]:
    return [asdict(check) for check in checks]


def export(evidence: Evidence) -> tuple[bytes, bool]:
    """The attestations as an in-toto bundle, one JSON document a line, and whether all are signed.

    Signed ones are the envelopes as they stand; where there is none, the Statement that would have been signed.

    Raises:
        NotFound, ConfigInvalid: the manifest or the verdict.
    """
    entry = None
    if evidence.connection is not None:
        with evidence.connection:
            entry = audit.find(evidence.connection, "verdict", evidence.release_id, digest_of(evidence.verdict))
    made: list[tuple[Path, Callable[[], dict[str, Any]]]] = [
        (evidence.manifest_path, lambda: attesting.manifest_statement(evidence.manifest_path, evidence.manifest)),
        (
            evidence.folder / "verdict.json",
            lambda: attesting.verdict_statement(evidence.folder, evidence.verdict, entry),
        ),
    ]
    lines, signed = [], True
    for path, statement in made:
        envelope = attesting.envelope_of(path)
        signed = signed and envelope.exists()
        lines.append(canonical_json(read_json(envelope, "signature") if envelope.exists() else statement()))
    return b"".join(line + b"\n" for line in lines), signed


class _Unsigned(Exception):
    """There is no signature, and nothing says that there was one."""


def _look(name: str, look: Callable[[Evidence], str], evidence: Evidence) -> Check:
    try:
        return Check(name, "PASS", look(evidence))
    except _Unsigned as error:
        return Check(name, "UNSIGNED", str(error))
    except (NotFound, Unavailable) as error:
        return Check(name, "UNCHECKED", error.message)
    except GoliveError as error:
        return Check(name, "FAIL", "; ".join(filter(None, (error.message, error.detail))))
    except ModuleNotFoundError as error:
        return Check(name, "UNCHECKED", f"the package {error.name} is not installed")
    except (KeyError, TypeError, AttributeError, ValueError) as error:  # evidence of another shape than Golive writes
        return Check(name, "FAIL", f"it is not of the shape that Golive writes: {type(error).__name__}: {error}")


def _same(what: str, found: Any, expected: Any) -> None:
    if found != expected or found is None:
        raise IntegrityMismatch(f"{what}: {_short(expected)} was recorded, {_short(found)} is there")


def _short(value: Any) -> str:
    return value[:12] if isinstance(value, str) else "another" if value else "nothing"


def _manifest(evidence: Evidence) -> str:
    found = evidence.manifest
    if found["release_id"] != evidence.release_id:
        raise IntegrityMismatch(f"it is the manifest of {found['release_id']}")
    return f"{evidence.manifest_path.name}, digest {manifest.evaluated_digest(found)[:12]}"


def _signature(evidence: Evidence, path: Path, claimed: str | None, require: Callable[[dict[str, Any]], None]) -> str:
    found = signing.check(attesting.envelope_of(path), evidence.keys)
    if found.state == "unsigned":
        if claimed:
            raise IntegrityMismatch(f"key {claimed[:12]} is said to have signed it, but {found.found}")
        raise _Unsigned(found.found)
    if found.state == "bad" or found.statement is None:
        raise IntegrityMismatch(found.found)
    require(found.statement)
    if found.state == "unchecked":
        raise Unavailable(f"signed by key {str(found.keyid)[:12]}, but {found.found}")
    return found.found


def _manifest_signature(evidence: Evidence) -> str:
    found, path = evidence.manifest, evidence.manifest_path
    return _signature(evidence, path, None, lambda statement: attesting.require_manifest(statement, path, found))


def _verdict(evidence: Evidence) -> str:
    found = evidence.verdict
    if found["release_id"] != evidence.release_id:
        raise IntegrityMismatch(f"it is the verdict on {found['release_id']}")
    from lib.release.assessment import verdict_text

    if read_text(evidence.folder / "verdict.txt", "verdict") != verdict_text(found) + "\n":
        raise IntegrityMismatch("verdict.txt does not say what verdict.json holds")
    return f"{found['verdict']}, digest {digest_of(found)[:12]}"


def _verdict_signature(evidence: Evidence) -> str:
    content = evidence.verdict
    return _signature(
        evidence,
        evidence.folder / "verdict.json",
        content.get("signed_by"),
        lambda statement: attesting.require_verdict(statement, evidence.folder, content),
    )


def _evaluation(evidence: Evidence) -> str:
    found = evidence.evaluation
    _same("evaluation", found.digest, evidence.verdict["metrics_digest"])
    _same("its inputs", found.summary["inputs"], evidence.verdict["inputs"])
    return f"{len(found.rows)} cases, digest {found.digest[:12]}"


def _tie(evidence: Evidence) -> str:
    content, found = evidence.verdict, evidence.manifest
    _same("manifest_digest", manifest.evaluated_digest(found), content.get("manifest_digest"))
    for name in _SHARED:
        _same(name, manifest.input_of(found, name), content["inputs"].get(name))
    _same("gates_digest", found["thresholds"]["digest"], content["gates_digest"])
    return f"the verdict names it, and both name the same {', '.join([*_SHARED, 'gates_digest'])}"


def _baseline(evidence: Evidence) -> str:
    found = evidence.baseline
    if found is None:
        return "the verdict compares with nothing"
    _same("cases of the baseline", found.summary["inputs"]["cases_digest"], evidence.verdict["inputs"]["cases_digest"])
    return f"{evidence.verdict['baseline_release']}, digest {found.digest[:12]}, on the same cases"


def _recomputed(evidence: Evidence) -> str:
    from lib.release.assessment import decide

    content = evidence.verdict
    gates = {key: value for key, value in evidence.manifest["thresholds"].items() if key != "digest"}
    _same("gates", digest_of(gates), content["gates_digest"])
    # a manifest's keys are sorted, while the gate goes by the order of configs/gates.yaml
    order = [item["metric"] for item in content["metrics"]]
    gates["metrics"] = dict(sorted(gates["metrics"].items(), key=lambda item: order.index(item[0])))
    possible = [
        decide(evidence.evaluation, evidence.baseline, gates, evidence.manifest["seed"], first=first).to_dict()
        for first in (True, False)
    ]
    if not any(
        canonical_json(_plain(found)) == canonical_json({key: content.get(key) for key in found}) for found in possible
    ):
        raise IntegrityMismatch("the gate gives another verdict from the same evaluation, baseline and limits")
    return "the gate gives the same verdict again, to the byte"


def _plain(value: Any) -> Any:
    """As JSON reads it back: tuples are lists."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _cases(evidence: Evidence) -> str:
    path = evidence.project / evidence.verdict["cases_file"]
    found = case_files.load(path)
    _same("cases", found.digest, evidence.verdict["inputs"]["cases_digest"])
    return f"{evidence.verdict['cases_file']}, digest {found.digest[:12]}"


def _receipts(evidence: Evidence) -> str:
    content = evidence.verdict
    evaluated = read_json(evidence.folder / "receipts" / "evaluate.json", "receipt of the evaluation")
    frozen = read_json(evidence.folder / "receipts" / "manifest.json", "receipt of the manifest")
    _same("verdict in the receipt", evaluated["outcome"], content["verdict"])
    expected = {**content["inputs"], "gates_digest": content["gates_digest"], "manifest_digest": content["manifest_digest"]}
    _same("inputs in the receipt", {key: evaluated["inputs"].get(key) for key in expected}, expected)
    _same("manifest in the receipt", frozen["inputs"]["manifest_digest"], manifest.digest(evidence.manifest))
    return "evaluate and manifest say the same"


def _release(evidence: Evidence) -> str:
    found = _get_release(evidence)
    inputs = evidence.verdict["inputs"]
    _same("config_hash", found.config_hash, inputs["config_hash"])
    _same("content_digest", found.content_digest, inputs["content_digest"])
    _same("locked config", found.locked_config.digest, evidence.manifest["config_digest"])
    return f"config {found.config_hash[:12]}, sealed with {str(found.content_digest)[:12]}"


def _get_release(evidence: Evidence) -> Release:
    connection = evidence.database()
    with connection:
        return get_release(connection, evidence.release_id)


def _record(evidence: Evidence) -> str:
    connection, content = evidence.database(), evidence.verdict
    with connection:
        row = postgres.one(
            connection,
            "SELECT * FROM golive.verdicts WHERE release_id = %s ORDER BY verdict_id DESC LIMIT 1",
            (evidence.release_id,),
        )
    if row is None:
        raise IntegrityMismatch("the database has no verdict on this release")
    _same("verdict_digest", digest_of(content), row["verdict_digest"])
    for name in ("metrics_digest", "gates_digest", "verdict"):
        _same(name, content[name], row[name])
    for name in ("cases_digest", "config_hash", "content_digest"):
        _same(name, content["inputs"][name], row[name])
    if row["baseline"] != content["baseline_release"]:
        raise IntegrityMismatch(f"the baseline recorded is {row['baseline']}")
    return "the newest verdict in the database is this one"


def _audit_chain(evidence: Evidence) -> str:
    connection = evidence.database()
    with connection:
        broken = audit.first_break(connection)
    if broken is not None:
        raise IntegrityMismatch(f"the chain of hashes breaks at entry {broken}")
    return "the chain of hashes is whole"


def _audit_entry(evidence: Evidence) -> str:
    connection = evidence.database()
    with connection:
        entry = audit.find(connection, "verdict", evidence.release_id, digest_of(evidence.verdict))
    if entry is None:
        raise IntegrityMismatch("the audit log has no entry of this verdict")
    found = signing.check(attesting.envelope_of(evidence.folder / "verdict.json"), evidence.keys)
    if found.statement is None:
        return f"entry {entry['seq']}"
    signed = found.statement["predicate"].get("audit_log")
    if signed != entry:
        raise IntegrityMismatch(f"entry {entry['seq']} is not the one that was signed: the log was written anew")
    return f"entry {entry['seq']}, with the hash that was signed"


def _table(evidence: Evidence) -> str:
    connection, release = evidence.database(), _get_release(evidence)
    with connection:
        content = content_of(connection, release.table_schema, release.table_name)
    if content is None:
        raise Unavailable(f"table {release.table_name} is not there any more")
    _same("content_digest", content.digest, evidence.verdict["inputs"]["content_digest"])
    return f"{content.row_count} rows, digest {content.digest[:12]}"


CHECKS: dict[str, Callable[[Evidence], str]] = {
    "manifest": _manifest,
    "manifest signature": _manifest_signature,
    "verdict": _verdict,
    "verdict signature": _verdict_signature,
    "evaluation": _evaluation,
    "manifest of the verdict": _tie,
    "baseline": _baseline,
    "verdict recomputed": _recomputed,
    "cases": _cases,
    "receipts": _receipts,
    "release record": _release,
    "verdict record": _record,
    "audit chain": _audit_chain,
    "audit entry": _audit_entry,
    "table": _table,
}
