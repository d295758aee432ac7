# make reproduce   every quick experiment, the ledger of claims, the website
# make test        all tests
# make faults    many kills of everything, and what is left (KILLS=200)
# make lab         JupyterLab on the notebooks
# make docs        the website alone
# make slurm       a real Slurm on this machine (root, Debian), and the tests that run through it
# make stress      two hundred notebooks side by side
# make bench       speed, side by side with peers
# make export      package and README from the notebooks
# make clean       remove what can be built again (finished runs stay; make distclean removes those too)

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
CORES  ?= 2
KILLS  ?= 200
BIN    := .venv/bin
READY  := .venv/.ready
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help reproduce quick test faults browser lab docs slurm stress bench export clean distclean

help:
	@grep "^# make" Makefile | cut -c3-

reproduce: quick docs
	@$(BIN)/uncpaper verify
	@$(BIN)/uncpaper summary

quick: $(READY)
	@echo "== every experiment at quick scale on $(CORES) cores: about six minutes the first time; what is done is kept"
	@$(BIN)/uncpaper run --all --profile quick --cores $(CORES)

test: quick docs browser
	$(BIN)/python -m pytest -n $(CORES) --dist loadfile

faults: $(READY)
	$(BIN)/python tests/faults.py $(KILLS)

# a browser for the tests that look at the site: what is here, Debian's, or Playwright's own
browser: $(READY)
	@$(BIN)/python tests/browser.py

lab: $(READY)
	$(BIN)/jupyter lab --notebook-dir nbs

docs: $(READY)
	@echo "== the website: about six minutes the first time"
	@$(BIN)/uncpaper site

slurm: $(READY)
	@sh tests/slurm.sh
	$(INSTALL) -e ".[cluster]"
	$(BIN)/python -m pytest tests/test_slurm.py

stress: $(READY)
	UNCPAPER_NOTEBOOKS=200 $(BIN)/python -m pytest tests/test_together.py

bench: $(READY)
	$(INSTALL) -e ".[bench]"
	@for script in $(filter-out benchmarks/gpu.py,$(wildcard benchmarks/[a-z]*.py)); do echo "== $$script"; $(BIN)/python $$script || exit 1; done

export: $(READY)
	$(BIN)/nbdev_export
	$(BIN)/nbdev_clean
	$(BIN)/uncpaper readme

$(READY): settings.ini setup.py pyproject.toml
	@echo "== a virtual environment in .venv: some gigabytes, about three minutes, once"
	@$(PYTHON) -m venv .venv
	@$(INSTALL) -e ".[dev]"
	@touch $@

clean:
	rm -rf _site runs/site runs/drafts runs/pages.log runs/.plan-* build *.egg-info .pytest_cache .hypothesis
	find . -name __pycache__ -not -path "./.venv/*" -prune -exec rm -rf {} +

distclean: clean
	rm -rf runs .venv
