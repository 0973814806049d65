# Every goal works on a fresh clone: the environment is made first, in .venv, and only when it is not there.
#
#   make sft dpo                              the embedded default, recipes/tiny.yaml
#   make sft dpo RECIPE=recipes/my.yaml       another recipe; RUNS=folder for another place than runs/
#   make dpo FRESH=1                          another attempt, beside what is there
#   make dpo POLICY=path/to/adapter           start from that adapter
#   make dpo UNSLOTH=0                        the backend: 1, 0 or auto; `make unsloth` installs it
#   make sft SET="seed=1 stages.sft.train.learning_rate=1e-3"
#   make compare STAGE=sft STEPS=40 REPEATS=2  one stage with and without Unsloth
#   make plan | status | all | test | lint | bench | bench-ppo | bench-data

RECIPE ?= recipes/tiny.yaml
RUNS   ?= runs
PYTHON ?= python3
STAGES := $(patsubst stages/%.py,%,$(filter-out stages/__init__.py,$(wildcard stages/*.py)))
VENV   := .venv
ALIGN  := $(VENV)/bin/align
WHERE  := --recipe $(RECIPE) --runs $(RUNS) $(foreach pair,$(SET),--set '$(pair)')
SWITCH-1 := --unsloth
SWITCH-0 := --no-unsloth
SWITCH-auto := --set use_unsloth=auto
OPTIONS = $(WHERE) $(if $(POLICY),--policy $(POLICY)) $(if $(filter 1,$(FRESH)),--fresh) $(if $(UNSLOTH),$(SWITCH-$(UNSLOTH)))

# All stages named in one call are one `align run`: the first of them does it, the others are then done.
GOALS  := $(filter $(STAGES),$(MAKECMDGOALS))

.PHONY: $(STAGES) all plan status compare unsloth test lint bench bench-ppo bench-data clean
.DEFAULT_GOAL := all

ifneq ($(filter plan status,$(MAKECMDGOALS)),)  # make plan sft: only asks
$(STAGES):
	@:
else
$(firstword $(GOALS)): $(VENV)/.ready
	@$(ALIGN) run $(GOALS) $(OPTIONS)

$(wordlist 2,$(words $(GOALS)),$(GOALS)): $(firstword $(GOALS))
	@:
endif

all: $(VENV)/.ready
	@$(ALIGN) run $(OPTIONS)

plan: $(VENV)/.ready
	@$(ALIGN) plan $(GOALS) $(OPTIONS)

compare: $(VENV)/.ready-compare $(VENV)/.ready-unsloth
	@$(ALIGN) compare $(STAGE) $(WHERE) $(if $(STEPS),--steps $(STEPS)) $(if $(REPEATS),--repeats $(REPEATS))

status: $(VENV)/.ready
	@$(ALIGN) status $(GOALS) $(WHERE) $(if $(POLICY),--policy $(POLICY))

unsloth: $(VENV)/.ready-unsloth

test: $(VENV)/.ready-test $(if $(filter 0,$(UNSLOTH)),,$(VENV)/.ready-unsloth)
	$(VENV)/bin/python -m pytest $(ARGS)

lint: $(VENV)/.ready-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

bench: $(VENV)/.ready
	$(VENV)/bin/python benchmarks/against_trl.py $(ARGS)

bench-ppo: $(VENV)/.ready
	$(VENV)/bin/python benchmarks/ppo_against_trl.py $(ARGS)

bench-data: $(VENV)/.ready
	$(VENV)/bin/python benchmarks/data_scale.py $(ARGS)

# Installed with pinned versions (constraints.txt has what they need in turn); nothing outside .venv.
$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name it with PYTHON=..."; exit 1; }
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.ready-compare: $(VENV)/.ready
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .[compare]
	@touch $@

$(VENV)/.ready-test: $(VENV)/.ready
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .[test,compare]
	@touch $@

# Without what it asks for: on a CPU it needs none of it, and its own demands do not resolve everywhere. Its
# kernels want Triton, which a CUDA build of torch brings, and two libraries more.
$(VENV)/.ready-unsloth: $(VENV)/.ready
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .[unsloth]
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps unsloth unsloth_zoo \
		$$($(VENV)/bin/python -c 'import torch; print("cut_cross_entropy torchao" if torch.version.cuda else "")')
	@touch $@

clean:
	rm -rf $(VENV)
