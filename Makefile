# make demo   from a fresh clone to trained models, tables and the report
# make readme   the figures and the moving picture of README and docs, from the finished demo
# make test   everything that must hold before a commit
# make test-slurm   whole runs on a SLURM cluster that is pretended on this machine (docs/slurm.md)

PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
CORES ?= all

.PHONY: demo readme test test-slurm constraints config-docs
.DEFAULT_GOAL := demo

demo: .venv/installed
	$(BIN)/snakemake --cores $(CORES)
	@echo "Report: $(CURDIR)/results/demo/report/index.html"

readme: .venv/installed
	$(BIN)/python tools/readme.py results/demo

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint
	$(BIN)/pytest

test-slurm: .venv/installed
	$(BIN)/python -m pip install -c constraints.txt -e ".[slurm]"
	$(BIN)/pytest -m "slurm_run or not slurm_run" tests/test_slurm.py tests/test_slurm_run.py

# Once, and again when what is to be installed has changed.
.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -c constraints.txt -e ".[dev]"
	touch $@

# The versions installed here become the ones that every new clone installs.
constraints:
	$(BIN)/python tools/constraints.py > constraints.txt.new
	mv constraints.txt.new constraints.txt
	$(BIN)/python tools/constraints.py --conda > envs/difftalk.yaml.new
	mv envs/difftalk.yaml.new envs/difftalk.yaml

# The schema that editors read and the table of keys in config/README.md, from the models in difftalk/config.
config-docs: .venv/installed
	$(BIN)/python tools/config_docs.py
