PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FACTS := settings.ini setup.py pyproject.toml

.PHONY: help demo test docs tutorials bench install readme
.NOTPARALLEL:

help: ## what there is to make (this list)
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.base ## set up .venv if need be, then find a winning ticket on handwritten digits
	$(BIN)/lottery-nb demo

# A thread a process, or the notebooks that run side by side take each other's cores
test: install ## set up .venv for development if need be, then run the notebooks and the tests
	OMP_NUM_THREADS=1 $(BIN)/nbdev-test --timing
	$(BIN)/pytest

docs: install ## build the site in docs/ from the notebooks; open docs/index.html
	$(BIN)/python tools/docs/build.py

tutorials: install ## run the tutorials anew, all but the long trainings (TRAIN=--train runs these too)
	$(BIN)/python tools/tutorials.py $(TRAIN)

bench: $(VENV)/.bench ## set up .venv with the peers if need be, then measure speed side by side
	for o in benchmarks/*.py; do $(BIN)/python $$o || exit 1; done

install: $(VENV)/.dev ## set up .venv for development, nothing else

readme: install ## write README.md from nbs/index.ipynb
	$(BIN)/python tools/readme.py

# Each stamp says that .venv holds the package with these extras, as the facts of today ask for it
$(VENV)/.base: extras =
$(VENV)/.dev: extras = [dev,docs,ray,distributed,export]
$(VENV)/.bench: extras = [bench]

$(VENV)/.base $(VENV)/.dev $(VENV)/.bench: $(FACTS)
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -e '.$(extras)'
	touch $(sort $(VENV)/.base $@)
