# Two commands: `make repro` runs the pipeline, `make test` the tests. Each sets up .venv first where needed.

UV := 0.13.8
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$python && break; \
	done)
BIN := .venv/bin
export DVC_NO_ANALYTICS := 1
export DO_NOT_TRACK := 1
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: repro flow repository test test-quick test-long bench check format pictures lock clean help

help:                      ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## */\t/' | expand -t 12

repro: repository          ## the pipeline of params.yaml: look for new data, then whatever is out of date
	@$(BIN)/python -c '$(CLEAR_LOCK)'
	$(BIN)/dvc repro --force --single-item locate
	$(BIN)/dvc repro

flow: repository           ## the same through Prefect
	$(BIN)/python -m flows.pipeline

# a kill amid its writing leaves DVC's list of locked paths cut off, and DVC would refuse to run
CLEAR_LOCK = from histopipe.core import dvc, workspace; dvc.remove_damaged_rwlock(workspace.Workspace.find())

# a ZIP that was downloaded is no git repository: DVC works there only if it is told to; nor need its files be executable
repository: $(BIN)/.ready
	@test -x run || chmod +x run
	@folder="$$PWD"; while [ -n "$$folder" ] && [ ! -e "$$folder/.git" ]; do folder="$${folder%/*}"; done; \
	[ -e "$$folder/.git" ] || [ "$$($(BIN)/dvc config core.no_scm 2>/dev/null)" = true ] || { \
	$(BIN)/dvc config --local core.no_scm true && echo "no git repository here: results will name no commit, and \`dvc exp\`" \
	"and \`histopipe gc\` don't work. For these: git init && git add --all && git commit -m start &&" \
	"$(BIN)/dvc config --local --unset core.no_scm" >&2; }

test: $(BIN)/.ready-dev check  ## lint, types, layers and all tests but the long ones
	$(BIN)/python -m pytest -m "not long" $(SIDE_BY_SIDE)

test-quick: $(BIN)/.ready-dev check  ## lint, types, layers and unit tests within two minutes, while writing
	$(BIN)/python -m pytest tests/unit -m "not long and not slow" -q $(SIDE_BY_SIDE)

test-long: $(BIN)/.ready-dev   ## what takes longer: many kills, full-size archives
	$(BIN)/python -m pytest -m long

bench: $(BIN)/.ready-dev   ## every benchmark, and the table of docs/performance.md: an hour of an idle machine
	$(BIN)/python -m benchmarks.bench

check: $(BIN)/.ready-dev   ## lint, format, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(BIN)/.ready-dev  ## mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

pictures:                  ## the pictures of README and docs, from the last run on idc and drawn anew
	$(BIN)/python docs/draw_datasets.py
	cp evaluations/idc/cancernet/figures/roc.png evaluations/idc/cancernet/figures/calibration.png \
		evaluations/idc/cancernet/figures/confusion.png docs/images/

lock: $(BIN)/.ready        ## newer versions of what pyproject.toml asks for
	$(BIN)/uv pip compile --upgrade pyproject.toml --universal --python-version 3.11 --no-header --no-annotate \
		--no-emit-index-url -o requirements.lock
	$(BIN)/uv pip compile --upgrade pyproject.toml --extra dev -c requirements.lock --universal --python-version 3.11 \
		--no-header --no-annotate --no-emit-index-url -o requirements-dev.lock

clean:                     ## forget the environment; data and results stay
	rm -rf .venv

# a file's tests share what its fixtures trained; the files that take longest come first. Many wait for servers and child
# processes, so one worker more than cores, of some 3 GiB each (`make test WORKERS=1` where memory is scarce)
WORKERS ?= $(shell cores=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2); echo $$((cores < 3 ? cores + 1 : 4)))
SIDE_BY_SIDE = --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

$(BIN)/.ready: requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "histopipe needs Python 3.11, 3.12 or 3.13: install one and run again" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check "uv==$(UV)" || true
	$(call install,-r requirements.lock)
	$(call install,--no-deps --no-build-isolation -e .)
	$(call compile)
	touch $@

$(BIN)/.ready-dev: $(BIN)/.ready requirements-dev.lock
	$(call install,-r requirements-dev.lock)
	$(call compile)
	touch $@

# uv installs in seconds what takes pip minutes; where it can't be had, pip does the same
install = $(BIN)/uv pip install --quiet --python $(BIN)/python $(1) || $(BIN)/pip install --quiet $(1)
# compiled once here, or else by every process of its own where Python may not write beside its modules
compile = $(BIN)/python -m compileall -q -j 0 .venv/lib > /dev/null || true
