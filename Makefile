# Every target is cheap and safe to run again. `make help` lists them.
ifeq ($(origin PYTHON),undefined)
PYTHON := $(shell command -v python3.11 || echo python3)
endif
RECIPE ?= tiny
RUNTIME ?= process
VARIANT ?= cpu
BASE ?=
NAME ?=
ARGS ?=
DATA ?=
FILES ?= $(firstword $(wildcard data ../shared/data))
CONTROL := .venv/control/bin
ENGINE := .venv/engine/bin
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup run test check bench images up down status report clean
export PYTHONUNBUFFERED := 1
unexport PYTHONDONTWRITEBYTECODE  # without .pyc files every stage compiles its imports again

help:  ## Print this list.
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## Create the two locked environments, .venv/control and .venv/engine.
	@$(PYTHON) infra/setup.py

run:  ## Run a pipeline: make run RECIPE=tiny ARGS="--set nodes.rl.recipe.update.tau=0.2"
	@$(PYTHON) infra/setup.py control
	@$(CONTROL)/python -m infra.local up & services=$$!; \
	  $(PYTHON) infra/setup.py engine || { wait $$services; exit 2; }; \
	  wait $$services
	@$(CONTROL)/k15 run recipes/$(RECIPE)/pipeline.toml --runtime $(RUNTIME) $(if $(FILES),--set files_root=$(FILES)) $(ARGS)

test: setup  ## Run every test, the suites side by side: make test ARGS="engine -- -x"
	@$(PYTHON) infra/setup.py tests
	@$(PYTHON) infra/test.py $(ARGS)

check:  ## Format, lint, types, import rules, Dockerfiles.
	@$(PYTHON) infra/setup.py control
	@$(CONTROL)/ruff format --check . && $(CONTROL)/ruff check . && $(CONTROL)/mypy && $(CONTROL)/mypy --follow-imports=silent tests/bench && $(CONTROL)/lint-imports \
	  && .venv/tools/bin/hadolint -c containers/.hadolint.yaml containers/*.Dockerfile

bench: setup  ## Run one benchmark: make bench NAME=spine
	@script=tests/bench/$(NAME).py; \
	  test -f $$script || { echo "make bench: NAME is one of: $(basename $(notdir $(wildcard tests/bench/*.py)))" >&2; exit 2; }; \
	  ! grep -q '^# services: local' $$script || $(CONTROL)/python -m infra.local up; \
	  environment=$$(sed -n 's/^# environment: //p' $$script | head -1); \
	  mkdir -p out/bench; PYTHONPATH=. .venv/$${environment:-control}/bin/python $$script $(ARGS)

images:  ## Build the images the runtime docker uses: make images VARIANT=cpu BASE=debian@sha256:...
	@$(PYTHON) infra/setup.py control
	@$(CONTROL)/python -m infra.images --variant $(VARIANT) --base "$(BASE)"

up:  ## Start the local services (S3, Prefect, MLflow); restarts only what died.
	@$(PYTHON) infra/setup.py control
	@$(CONTROL)/python -m infra.local up

down:  ## End the local services; their data stays in .k15.
	@test ! -x $(CONTROL)/python || $(CONTROL)/python -m infra.local down

status:  ## Show the local services.
	@$(PYTHON) infra/setup.py control
	@$(CONTROL)/python -m infra.local status

report:  ## Write out/report.html of the newest run.
	@$(CONTROL)/k15 report

clean: down  ## Remove environments, outputs and caches; DATA=1 also removes .k15, all artifacts in it.
	@rm -rf .venv out .mypy_cache .ruff_cache .pytest_cache .import_linter_cache k15.egg-info
	@$(if $(DATA),rm -rf .k15,if test -d .k15; then echo "kept .k15, the local artifacts; make clean DATA=1 removes them"; fi)
