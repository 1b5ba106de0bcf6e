# Every target calls vllm-patcher or a tool; none holds logic. `make help` lists them.
SHELL := /bin/sh
PYTHON ?= python3
BIN := .venv/bin

# Options of `make image`; see `vllm-patcher image --help`. Several patches: PATCHES="a b".
VLLM ?=
PLATFORM ?=
PATCHES ?=
ALLOW_CLEAN ?=
TO ?=

EXAMPLES ?= 2000

# On a terminal pip says what it does; a log gets its errors.
PIP := -m pip install --disable-pip-version-check $$([ -t 2 ] || echo --quiet)

# The whole suite also holds the rules, which prove every edit, to a floor of branch coverage.
FLOOR := --cov --cov-fail-under=99

.PHONY: help image landed demo test quick engine engines docs lint bench dist
.DEFAULT_GOAL := help

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST) | expand -t 16

image: $(BIN)/vllm-patcher ## bake an image: VLLM=0.23.1rc1 [PLATFORM= PATCHES= TO=]
	@$(BIN)/vllm-patcher image $(if $(VLLM),$(VLLM),$(error say which: make image VLLM=0.23.1rc1)) \
	  $(if $(PLATFORM),--platform $(PLATFORM)) $(PATCHES:%=--patch %) $(if $(ALLOW_CLEAN),--allow-clean) \
	  $(if $(TO),--to $(TO))

landed: $(BIN)/vllm-patcher ## is upstream's fix in, per release of vLLM
	@$(BIN)/vllm-patcher landed

demo: $(BIN)/vllm-patcher ## the whole job on the real vLLM 0.23.0, without Docker
	@$(BIN)/vllm-patcher demo

# What is compiled is kept, also where Python is told not to, as in many containers: else each worker
# compiles every test on every run, for 6 seconds.
test quick: export PYTHONDONTWRITEBYTECODE :=

test: $(BIN)/.dev ## run the tests; what is missing here is skipped with the reason
	$(BIN)/python -m pytest --numprocesses 2 --dist loadgroup $(if $(TESTS),$(TESTS),$(FLOOR))

quick: $(BIN)/.dev ## the tests that need nothing but Python
	$(BIN)/python -m pytest --numprocesses 2 -m quick --hypothesis-profile quick $(TESTS)

fuzz: $(BIN)/.dev ## hostile documents and generated programs, minutes: EXAMPLES=
	FUZZ_EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest --numprocesses 2 \
	  $(or $(TESTS),tests/test_fuzz.py tests/rules/guard/test_properties.py)

oldest: ## the quick tests on the oldest dependencies that are allowed
	@echo "setting up out/oldest: half a minute" >&2
	@$(PYTHON) -m venv --clear out/oldest
	@$(PYTHON) -m tests.oldest > out/oldest/constraints.txt
	@out/oldest/bin/python $(PIP) --constraint out/oldest/constraints.txt --editable . \
	  hypothesis jsonschema pytest pytest-xdist pyyaml >&2
	out/oldest/bin/python -m pytest --numprocesses 2 -m quick --hypothesis-profile quick $(TESTS)

docs: $(BIN)/.docs ## the documentation site, into out/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --site-dir out/site

engine: $(BIN)/.dev ## a real vLLM on this CPU, without and with the guard (3.4 GB)
	@echo "the first run makes an environment outside the tree: 3.4 GB, about 4 minutes" >&2
	$(BIN)/python -m pytest -m engine --durations 0 tests/engine

engines: $(BIN)/.dev ## bake in Docker and podman of Debian's suites, as root: ENGINES=
	@echo "the first run unpacks engines outside the tree: some 250 MB and 15 seconds each" >&2
	$(BIN)/python -m pytest --numprocesses 2 --dist loadgroup -m engines $(if $(ENGINES),-k "$(ENGINES)") tests/engines

lint: $(BIN)/.dev ## ruff, mypy, bandit, pip-audit; actionlint, zizmor on workflows
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/actionlint
	$(BIN)/zizmor --offline --no-progress --quiet .github
	$(BIN)/python -m bandit --quiet --configfile pyproject.toml --recursive patcher
	.ci/audit

bench: $(BIN)/.dev ## measure: rewriting, verifying, reading a wheel
	$(BIN)/python -m bench

dist: $(BIN)/vllm-patcher ## sdist and wheel, into dist
	@echo "installing hatchling into .venv" >&2
	@$(BIN)/python $(PIP) hatchling hatch-vcs >&2
	$(BIN)/python -m hatchling build --target sdist --target wheel

$(BIN)/vllm-patcher: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	@echo "setting up .venv (once): half a minute" >&2
	@$(PYTHON) -m venv .venv
	@$(BIN)/python $(PIP) --editable . >&2
	@touch $@

$(BIN)/.dev: $(BIN)/vllm-patcher
	@echo "adding what the tests need to .venv (once): a minute" >&2
	@$(BIN)/python $(PIP) --editable '.[dev]' >&2
	@touch $@

$(BIN)/.docs: $(BIN)/vllm-patcher
	@echo "adding what the site needs to .venv (once): half a minute" >&2
	@$(BIN)/python $(PIP) --editable '.[docs]' >&2
	@touch $@
