PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FACTS := settings.ini setup.py pyproject.toml
# One process a core, each with one thread, or they take each other's cores
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n auto

.PHONY: help demo install quick test slow gpu docs docs-check readme dist prep tutorials landmarks bench matrix lowest newest row
.NOTPARALLEL:

help: ## what there is to make (this list)
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.base ## set up .venv if need be, then find a winning ticket on handwritten digits
	$(BIN)/lottery-nb demo

install: $(VENV)/.dev ## set up .venv for development, nothing else

quick: install ## in two minutes: the notebooks of parts I and II, and the random cases of all parts
	$(PYTEST) --dist worksteal -m 'quick or hypothesis'

test: install ## set up .venv for development if need be, then run the notebooks and the tests
	$(PYTEST) --dist loadfile --no-loadscope-reorder -m 'not slow'

slow: install ## the rest: the tutorials in small, torchvision's networks, the installed wheel, every benchmark in small, the peers
	$(PYTEST) --dist loadfile --no-loadscope-reorder -m slow

gpu: install ## on a machine with a GPU: what holds there as it holds on the CPU
	$(BIN)/pytest -m gpu

docs: install ## build the site in docs/ from the notebooks; open docs/index.html
	$(BIN)/python tools/docs/build.py

docs-check: install ## is the site in docs/ what the notebooks give?
	$(BIN)/python tools/docs/check.py

readme: install ## write README.md from nbs/index.ipynb, and what settings.ini says wherever else it is told
	$(BIN)/python tools/tell.py
	$(BIN)/python tools/readme.py

dist: install ## leave the wheel in dist/, which pip installs anywhere, and the source distribution
	rm -rf build dist
	$(BIN)/python -m build --no-isolation

prep: install ## before a commit: README and the other places of facts, export, clean, site, quick tests
	$(MAKE) readme
	$(BIN)/nbdev-export
	$(BIN)/nbdev-clean
	$(MAKE) docs quick

tutorials: install ## run the tutorials anew, all but the long trainings (TRAIN=--train runs these too)
	$(BIN)/python tools/tutorials.py $(TRAIN)

landmarks: install ## the papers' experiments with ten seeds, in a quarter of an hour: tables in nbs/tutorials/results, pictures in the tutorial
	$(BIN)/python tools/tutorials.py --train 10_landmarks

bench: $(VENV)/.bench ## set up .venv with the peers if need be, then measure speed side by side
	for o in $(filter-out benchmarks/gpu.py,$(wildcard benchmarks/[a-z]*.py)); do $(BIN)/python $$o || exit 1; done

matrix: lowest newest ## the quick tests in two more environments: the lowest versions that settings.ini admits, and the newest (KEEP=1 keeps them)

lowest:
	$(PYTHON) -m venv --clear .venv-lowest
	$(PYTHON) tools/floors.py > .venv-lowest/floors.txt
	PIP_CONSTRAINT=$(CURDIR)/.venv-lowest/floors.txt $(MAKE) row ROW=.venv-lowest

newest:
	$(PYTHON) -m venv --clear .venv-newest
	$(MAKE) row ROW=.venv-newest

row:
	$(MAKE) quick VENV=$(ROW) extras='[dev,all]'; code=$$?; test -n "$(KEEP)" || rm -rf $(ROW); exit $$code

# Each stamp says that .venv holds the package with these extras, as the facts of today ask for it
$(VENV)/.base: extras =
$(VENV)/.dev: extras = [dev,docs,all,beside]
$(VENV)/.bench: extras = [bench,all]

$(VENV)/.base $(VENV)/.dev $(VENV)/.bench: $(FACTS)
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -e '.$(extras)'
	touch $(sort $(VENV)/.base $@)
