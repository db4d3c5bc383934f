# Golive: a retrieval config as a release. This file orders the steps and holds no logic; each script also runs by hand.

PYTHON  ?= python3
CORPUS  ?=
CASES   ?=
BACKUP  ?=
BEDROCK ?=
FRESH   ?=
DRY_RUN ?=
Q       ?=
A       ?=
B       ?=
HTML    ?=
RELEASE ?=
BENCH   ?=
PAIRS   ?=
WICE    ?=
WATCH   ?=
SYSTEM  ?=
BASELINE ?=
TRIALS  ?=
YES     ?=
REASON  ?= asked for on the command line

VENV    := .venv
RUN     := $(VENV)/bin/python
PIP     := $(RUN) -m pip install --quiet --quiet --disable-pip-version-check
CORE    := $(VENV)/.core
EVAL    := $(VENV)/.eval
DEV     := $(VENV)/.dev
BENCHED := $(VENV)/.bench
AUDIT   := $(VENV)/.audit
# ENV counts on the command line alone: many shells set one of that name for other reasons.
export GOLIVE_ENV := $(if $(filter command,$(origin ENV)),$(ENV),$(GOLIVE_ENV))
export CORPUS CASES BACKUP REASON Q A B HTML RELEASE PAIRS WICE SYSTEM BASELINE TRIALS  # recipes read them from the environment, so that quotes in them do no harm

# The steps of a release, in order; each is a script (lib/release/steps.py says which).
GOLIVE_STEPS := sync lock ingest manifest health evaluate backup validate promote

.DEFAULT_GOAL := help
.PHONY: help golive evaluate-system rollback backup backups report compare history calibrate optimize status monitor catch-up query lock ingest manifest health evaluate validate promote \
        stop resume judge-report setup setup-core db-url db-shell db-stop lint audit test faults bench clean purge requirements

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

golive: $(EVAL) ## release configs/candidate.yaml [CORPUS=dir CASES=file ENV=name BEDROCK=1 FRESH=1 DRY_RUN=1 CHUNK_SIZE=n ...]
	@$(RUN) scripts/golive.py $(if $(CORPUS),--corpus "$$CORPUS") $(if $(CASES),--cases "$$CASES") \
		$(if $(BEDROCK),--use-bedrock) $(if $(FRESH),--fresh-judging) $(if $(DRY_RUN),--dry-run) $(GOLIVE_STEPS)

rollback: $(CORE) ## go back to a backup: stop, restore, validate, resume (BACKUP=id)
	@$(RUN) scripts/restore_production_state.py --backup-id "$$BACKUP" --check
	@$(RUN) scripts/emergency_stop.py --reason "rollback to $$BACKUP"
	@$(RUN) scripts/restore_production_state.py --backup-id "$$BACKUP"
	@$(RUN) scripts/validate_rollback.py --backup-id "$$BACKUP"
	@$(RUN) scripts/resume_operations.py --reason "rolled back to $$BACKUP"

backups: $(CORE) ## list the backups, newest first
	@$(RUN) scripts/restore_production_state.py --list

report: $(EVAL) ## write a release's report anew: HTML, Markdown, JUnit XML (RELEASE=id)
	@$(RUN) scripts/release_report.py $(if $(RELEASE),--release-id "$$RELEASE")

compare: $(EVAL) ## compare two releases, was and is, on the same cases (A=release B=release HTML=file)
	@$(RUN) scripts/compare_releases.py "$$A" "$$B" $(if $(HTML),--html "$$HTML")

history: $(EVAL) ## metrics over releases, plotted into metrics/history.svg
	@$(RUN) scripts/release_history.py --plot metrics/history.svg

calibrate: $(EVAL) ## the gate's own error rates: the live release built again, and six planted regressions (CASES=file)
	@$(RUN) scripts/calibrate_gate.py $(if $(CASES),--cases "$$CASES") $(if $(BEDROCK),--use-bedrock)

evaluate-system: $(EVAL) ## evaluate and gate a RAG of your own (SYSTEM=file with a system: block) [BASELINE=dir CASES=file CORPUS=dir DRY_RUN=1]
	@$(RUN) scripts/evaluate_system.py $(if $(SYSTEM),--system "$$SYSTEM") $(if $(BASELINE),--baseline "$$BASELINE") \
		$(if $(CASES),--cases "$$CASES") $(if $(CORPUS),--corpus "$$CORPUS") $(if $(BEDROCK),--use-bedrock) $(if $(DRY_RUN),--dry-run)

optimize: $(EVAL) ## search for a better config, judged on cases the search never saw; promotes nothing (TRIALS=n CASES=file)
	@$(RUN) scripts/optimize_config.py $(if $(TRIALS),--trials "$$TRIALS") $(if $(CASES),--cases "$$CASES") $(if $(BEDROCK),--use-bedrock)

status: $(CORE) ## what is live, and whether it answers queries
	@$(RUN) scripts/status.py

monitor: $(CORE) ## health of what is live, as JSON
	@$(RUN) scripts/production_health_monitor.py --json

catch-up: $(EVAL) ## bring documents that changed into what is live (WATCH=1: until interrupted)
	@$(RUN) scripts/catch_up.py $(if $(WATCH),--watch)

query: $(EVAL) ## ask the live index (Q="...")
	@$(RUN) scripts/query_index.py "$$Q"

lock: $(EVAL) ## one step: lock configs/candidate.yaml
	@$(RUN) scripts/lock_production_config.py

ingest: $(EVAL) ## one step: build the shadow table
	@$(RUN) scripts/shadow_ingest.py

manifest: $(EVAL) ## one step: write the run manifest
	@$(RUN) scripts/eval_manifest_generator.py --format yaml

health: $(EVAL) ## one step: the health gates
	@$(RUN) scripts/health_gated_evaluation.py --check-only

evaluate: $(EVAL) ## one step: evaluate against what is live, and judge (FRESH=1: without the stored judgements)
	@$(RUN) scripts/production_evaluation.py --skip-ingest $(if $(FRESH),--fresh-judging)

backup: $(CORE) ## one step: back up, and prove the backup by restoring it
	@$(RUN) scripts/backup_production_state.py

validate: $(CORE) ## one step: the go-live checklist
	@$(RUN) scripts/production_validation.py --full-check

promote: $(CORE) ## one step: move the pointer to what was evaluated
	@$(RUN) scripts/promote_production_config.py

stop: $(CORE) ## refuse all queries at once (REASON="...")
	@$(RUN) scripts/emergency_stop.py --reason "$$REASON"

resume: $(CORE) ## answer queries again, if the live state is sound
	@$(RUN) scripts/resume_operations.py --reason "$$REASON"

judge-report: $(EVAL) ## how far the offline judge agrees with people (PAIRS=file WICE=file)
	@$(RUN) scripts/judge_report.py $(if $(PAIRS),--pairs "$$PAIRS") $(if $(WICE),--claims "$$WICE")

db-url: $(CORE) ## print the database's address
	@$(RUN) scripts/database.py url

db-shell: $(CORE) ## open psql on the database
	@$(RUN) scripts/database.py shell

db-stop: $(CORE) ## stop the embedded PostgreSQL
	@$(RUN) scripts/database.py stop

setup: $(EVAL) ## install everything that a release needs
setup-core: $(CORE) ## install what an incident needs (seconds, no torch)

lint: $(DEV) ## style, types, imports, known traps of security
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports
	@$(VENV)/bin/bandit -q -c pyproject.toml -r lib scripts

audit: $(AUDIT) ## known vulnerabilities of the pinned packages; fails where it could not look
	@$(RUN) scripts/audit_dependencies.py

test: $(DEV) $(AUDIT) ## all tests, against a real PostgreSQL
	@OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist loadfile  # a thread a worker: more would spin for the same two cores

faults: $(DEV) ## the fault matrix: kills, full disks, lost lines; writes the table in docs/promises.md
	@OMP_NUM_THREADS=1 $(RUN) -m tests.faults.run

bench: $(BENCHED) ## benchmarks against named peers (BENCH=name for one); prints ratios
	@$(RUN) -m tests.benchmarks.run $(BENCH)

clean: ## remove what can be rebuilt; never the database, a backup or evidence
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
	find lib scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +

purge: ## remove the embedded database, all local backups, locked configs and evidence (YES=1)
	@$(if $(filter 1,$(YES)),,echo "this removes the embedded database and every local backup: make purge YES=1" >&2; exit 2)
	@if [ -x $(RUN) ]; then $(RUN) scripts/database.py stop; fi
	rm -rf .local configs/locked_configs metrics/golive metrics/benchmarks
	find metrics/baseline_evaluations -mindepth 1 ! -name README.md -delete

requirements: ## resolve the pinned versions anew (needs pip-tools)
	pip-compile -q --strip-extras --no-header --no-annotate --no-emit-index-url --no-emit-find-links --no-emit-options -o requirements/core.txt pyproject.toml
	pip-compile -q --strip-extras --no-header --no-annotate --no-emit-index-url --no-emit-find-links --no-emit-options -c requirements/core.txt --extra eval -o requirements/eval.txt pyproject.toml
	pip-compile -q --strip-extras --no-header --no-annotate --no-emit-index-url --no-emit-find-links --no-emit-options -c requirements/eval.txt --extra dev -o requirements/dev.txt pyproject.toml
	pip-compile -q --strip-extras --no-header --no-annotate --no-emit-index-url --no-emit-find-links --no-emit-options -c requirements/eval.txt -c requirements/dev.txt --extra bench -o requirements/bench.txt pyproject.toml
	pip-compile -q --strip-extras --no-header --no-annotate --no-emit-index-url --no-emit-find-links --no-emit-options -c requirements/eval.txt -c requirements/dev.txt --extra audit -o requirements/audit.txt pyproject.toml
	sed -i 's/^\(torch==[0-9.]*\)+cpu$$/\1/' requirements/*.txt

$(CORE): requirements/core.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Golive needs Python 3.11 or newer: make PYTHON=python3.11")'
	@echo "setting up $(VENV) (core packages)" >&2
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) -r requirements/core.txt
	@echo "$(CURDIR)" > "$$($(RUN) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/golive.pth"  # what an editable install writes
	@touch $@

$(EVAL): requirements/eval.txt $(CORE)
	@echo "setting up $(VENV) (eval packages: models and metrics; a few minutes, once)" >&2
	@$(PIP) -r requirements/eval.txt
	@touch $@

$(AUDIT): requirements/audit.txt $(CORE)
	@echo "setting up $(VENV) (pip-audit)" >&2
	@$(PIP) -r requirements/audit.txt
	@touch $@

$(DEV): requirements/dev.txt $(EVAL)
	@echo "setting up $(VENV) (test packages)" >&2
	@$(PIP) -r requirements/dev.txt
	@touch $@

$(BENCHED): requirements/bench.txt $(DEV)
	@echo "setting up $(VENV) (the peers that benchmarks compare with)" >&2
	@$(PIP) -r requirements/bench.txt
	@touch $@
