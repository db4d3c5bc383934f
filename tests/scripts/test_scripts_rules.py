"""What every script keeps to: fast help, exit codes told, no script importing another, a clear word without packages."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from lib.release.steps import STEPS

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
NAMES = sorted(path.stem for path in SCRIPTS.glob("*.py") if not path.stem.startswith("_"))
READ_ONLY = {
    "audit_dependencies",
    "compare_releases",
    "database",
    "judge_report",
    "production_health_monitor",
    "query_index",
    "release_history",
    "status",
    "validate_rollback",
    "verify_audit_log",
    "verify_release",
}
HEAVY = (
    "numpy",
    "torch",
    "psycopg2",
    "jsonschema",
    "boto3",
    "tink",
    "ragchecker",
    "sentence_transformers",
    "jinja2",
    "matplotlib",
    "optuna",
)


@pytest.mark.parametrize("name", NAMES)
def test_help_tells_the_exit_codes_and_imports_nothing_heavy(name):
    program = (
        "import runpy, sys\n"
        f"sys.argv = [{name!r}, '--help']\n"
        f"sys.path.insert(0, {str(SCRIPTS)!r})\n"
        "try:\n"
        f"    runpy.run_path({str(SCRIPTS / (name + '.py'))!r}, run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0, end.code\n"
        f"print('LOADED', [module for module in {HEAVY!r} if module in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "130 interrupted" in done.stdout
    assert "LOADED []" in done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_without_the_packages_a_script_says_what_to_type(name):
    done = subprocess.run([sys.executable, "-S", str(SCRIPTS / f"{name}.py"), "--help"], capture_output=True, text=True)
    assert done.returncode == 13
    assert "make setup-core" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_a_script_imports_no_other_script_and_stays_thin(name):
    text = (SCRIPTS / f"{name}.py").read_text(encoding="utf-8")
    imported = {
        alias.name.split(".")[0]
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import)
        for alias in node.names
    } | {str(node.module).split(".")[0] for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)}
    assert imported - {"lib", "_preflight"} <= set(sys.stdlib_module_names) | {"psycopg2"}
    assert "sys.path" not in text
    assert len(text.splitlines()) <= 100


@pytest.mark.parametrize("name", sorted(set(NAMES) - READ_ONLY))
def test_a_script_that_changes_something_has_a_dry_run(name):
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / f"{name}.py"), "--help"], capture_output=True, text=True, check=True
    )
    assert "--dry-run" in done.stdout


def test_every_step_of_a_release_is_a_script_that_is_there():
    assert {Path(step.script).stem for step in STEPS} <= set(NAMES)


def test_the_scripts_of_the_specification_are_there():
    assert {
        "lock_production_config",
        "production_evaluation",
        "health_gated_evaluation",
        "backup_production_state",
        "restore_production_state",
        "eval_manifest_generator",
        "ragchecker_official_evaluation",
        "production_validation",
        "production_health_monitor",
        "emergency_stop",
        "validate_rollback",
        "verify_release",
        "resume_operations",
    } <= set(NAMES)


def test_no_archive_is_ever_unpacked_by_path():
    """Backups and evidence are folders of listed files; what unpacks archives writes wherever the archive says."""
    for path in [*(SCRIPTS.parent / "lib").rglob("*.py"), *SCRIPTS.glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            assert not {"tarfile", "zipfile"} & {module, *names}, path
            assert "unpack_archive" not in names and getattr(node, "attr", "") != "unpack_archive", path
