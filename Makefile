# Every goal works on a fresh clone: the environment is made first, in .venv, and only when it is not there.
# What follows, to the first line that is no comment, is what `make` alone prints.
#
#   make sft dpo        train these stages of a recipe, and first what they stand on; there are
#                       STAGES
#   make all            every stage of the recipe
#   make doctor         what this machine has, and lacks; with RECIPE=... what that needs
#   make plan           what would be done, and why; `make plan dpo` for a stage
#                       GPU=16 held against a card of 16 GB, FIT=16 what makes it fit, MEMORY=1
#                       of what the memory consists
#   make status         where every stage stands, and what it learned
#   make report         the page on which a chain is judged; every run writes it, too
#   make chat           talk to the last policy, or to STAGE=dpo, or side by side to STAGE="sft dpo"
#   make serve          serve every finished stage as OpenAI does: PORT=8000; WEB=1 for a page, too
#   make publish        on the hub: REPO=owner/name STAGE=dpo WHAT=merged; TO=folder sends nothing
#   make tensorboard    the curves of the recipe's stages, in a browser: PORT=6006
#   make compare        a stage with and without Unsloth: STAGE=sft STEPS=40 REPEATS=2
#   make trial          methods from one start: METHODS="dpo kto" SEEDS=3 TOKENS=50000; a sweep with
#                       VARY="stages.dpo.train.beta=0.05,0.1"
#   make methods        the methods of tuning told apart; PROVE=1 tries them on the recipe's base
#   make merge          what was trained as a plain folder: STAGE=dpo DTYPE=bfloat16
#   make evaluate       benchmarks of lm-eval before and after: STAGE=dpo TASKS=gsm8k,my_task; SHOTS=5
#                       LIMIT=100 CHAT=1 (the chat template) TASKS_PATH=folder of your own tasks
#   make export         the same as another file: FORMAT=gguf or onnx, STAGE=dpo TYPE=q8_0 ADAPTER=1
#   make unsloth        install Unsloth beside the rest
#   make wandb          install W&B, for train.report_to: wandb
#   make deepspeed      install DeepSpeed, for STRATEGY=zero1, zero2 or zero3
#   make test           the tests, offline: ARGS="-k resume"; UNSLOTH=0 leaves Unsloth out
#   make lint           the style, and the types of what loads nothing heavy
#   make docs           docs/ as a site in site/, every link checked; `make reference` first writes
#                       docs/reference/ anew, from the code
#   make bench          against TRL's own command line; bench-ppo, bench-rollouts, bench-data,
#                       bench-merge, bench-serving, bench-kills, bench-first-loss, bench-real-data,
#                       bench-methods, bench-kill-methods, bench-families, bench-processes, bench-scale,
#                       bench-references, bench-memory, bench-memory-processes, bench-step,
#                       bench-prompts, bench-llamafactory, bench-switches: see benchmarks/
#   make readme         what README.md and docs/ quote of a run, by running it
#   make newest         the tests against the newest releases, in .venv-newest: ARGS="--keep torch"
#   make clean          remove .venv
#
#   RECIPE=recipes/my.yaml   another recipe than recipes/tiny.yaml, the embedded default
#   RUNS=folder              another place than runs/
#   FRESH=1                  another attempt, beside what is there
#   POLICY=path/to/adapter   start the first stage named from that adapter
#   FORCE=1                  keep an export whose proof fails, marked; TO=folder another place for one
#   UNSLOTH=0                the backend: 1, 0 or auto
#   PROCESSES=2              so many processes, or auto: one for each GPU
#   STRATEGY=fsdp            each of them holds a part of the model, and not the whole (ddp);
#                            zero1, zero2, zero3 are DeepSpeed's
#   SET="seed=1 stages.sft.train.learning_rate=1e-3"   other values than the recipe's

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
OPTIONS = $(WHERE) $(if $(POLICY),--policy $(POLICY)) $(if $(filter 1,$(FRESH)),--fresh) $(if $(UNSLOTH),$(SWITCH-$(UNSLOTH))) $(if $(PROCESSES),--processes $(PROCESSES)) $(if $(STRATEGY),--strategy $(STRATEGY))

# All stages named in one call are one `align run`: the first of them does it, the others are then done.
GOALS  := $(filter $(STAGES),$(MAKECMDGOALS))
# What is talked to, merged or published: make sft dpo chat means dpo. A reward model is no policy.
USED    = $(or $(STAGE),$(lastword $(filter-out reward,$(GOALS))))

.PHONY: help $(STAGES) all doctor plan status report compare methods trial unsloth-there unsloth test lint docs readme reference newest clean
.PHONY: chat serve merge export publish evaluate tensorboard wandb deepspeed
.PHONY: bench bench-ppo bench-rollouts bench-data bench-merge bench-serving bench-kills bench-first-loss bench-real-data
.PHONY: bench-methods bench-kill-methods bench-families bench-processes bench-scale bench-references bench-memory bench-memory-processes bench-step bench-prompts bench-llamafactory bench-switches
.DEFAULT_GOAL := help

help:
	@sed -n '/^#  /,/^$$/ s/^# \{0,3\}//p' $(firstword $(MAKEFILE_LIST)) | sed 's/STAGES$$/$(STAGES)/'

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

# The recipe counts where it was named: without one only the machine is looked at.
doctor: $(VENV)/.ready
	@$(ALIGN) doctor --runs $(RUNS) $(if $(filter-out file,$(origin RECIPE)),--recipe $(RECIPE))

plan: $(VENV)/.ready
	@$(ALIGN) plan $(GOALS) $(OPTIONS) $(if $(GPU),--gpu $(GPU)) $(if $(FIT),--fit $(FIT)) $(if $(filter 1,$(MEMORY)),--memory)

chat: $(VENV)/.ready
	@$(ALIGN) chat $(USED) $(WHERE)

serve: $(VENV)/.ready-serve
	@$(ALIGN) serve $(STAGE) $(WHERE) $(if $(PORT),--port $(PORT)) $(if $(filter 1,$(WEB)),--web)

tensorboard: $(VENV)/.ready-tensorboard
	@$(ALIGN) tensorboard $(WHERE) $(if $(PORT),--port $(PORT))

compare: unsloth-there $(VENV)/.ready-compare
	@$(ALIGN) compare $(STAGE) $(WHERE) $(if $(STEPS),--steps $(STEPS)) $(if $(REPEATS),--repeats $(REPEATS))

methods: $(VENV)/.ready
	@$(ALIGN) methods $(WHERE) $(if $(filter 1,$(PROVE)),--prove)

KEEP = $(if $(TO),--to $(TO)) $(if $(filter 1,$(FORCE)),--force)

merge: $(VENV)/.ready
	@$(ALIGN) merge $(USED) $(WHERE) $(if $(DTYPE),--dtype $(DTYPE)) $(KEEP)

evaluate: $(VENV)/.ready-tasks
	@$(ALIGN) evaluate $(USED) $(WHERE) $(if $(TASKS),--tasks '$(TASKS)') $(if $(TASKS_PATH),--tasks-path $(TASKS_PATH)) \
		$(if $(SHOTS),--few-shot $(SHOTS)) $(if $(LIMIT),--limit $(LIMIT)) $(if $(BATCH),--batch-size $(BATCH)) \
		$(if $(filter 1,$(CHAT)),--chat-template)

# Each format has an extra of its own.
FORMAT ?= gguf
export: $(VENV)/.ready-$(FORMAT)
	@$(ALIGN) export $(USED) $(WHERE) --format $(FORMAT) $(if $(TYPE),--type $(TYPE)) $(if $(filter 1,$(ADAPTER)),--adapter) $(KEEP)

trial: $(VENV)/.ready-compare
	@$(ALIGN) compare --methods $(METHODS) $(WHERE) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(TOKENS),--tokens $(TOKENS)) \
		$(foreach key,$(VARY),--vary '$(key)')

# Before anything is installed; and Unsloth never is unasked.
unsloth-there:
	@test -n "$(STAGE)" || { echo 'compare: which stage? Name it: make compare STAGE=sft'; exit 2; }
	@ls -d $(VENV)/lib/python3*/site-packages/unsloth >/dev/null 2>&1 || \
		{ echo 'compare: Unsloth is not installed. Install it first: make unsloth'; exit 2; }

status: $(VENV)/.ready
	@$(ALIGN) status $(GOALS) $(WHERE) $(if $(POLICY),--policy $(POLICY))

report: $(VENV)/.ready
	@$(ALIGN) report $(WHERE) $(if $(POLICY),--policy $(POLICY))

publish: $(VENV)/.ready
	@$(ALIGN) publish $(USED) $(WHERE) $(if $(REPO),--repo $(REPO)) $(if $(TO),--to $(TO)) $(if $(WHAT),--what $(WHAT)) \
		$(if $(BASE),--base $(BASE)) $(if $(LICENSE),--license '$(LICENSE)') $(if $(filter 1,$(PUBLIC)),--public)

unsloth: $(VENV)/.ready-unsloth

wandb deepspeed: %: $(VENV)/.ready-%

test: $(VENV)/.ready-test $(if $(filter 0,$(UNSLOTH)),,$(VENV)/.ready-unsloth)
	$(VENV)/bin/python -m pytest $(ARGS)

lint: $(VENV)/.ready-test $(VENV)/.ready-types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

docs: $(VENV)/.ready-docs
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict
	@echo 'site/index.html; with its search: $(VENV)/bin/python -m http.server -b 127.0.0.1 -d site 8001'

bench: $(VENV)/.ready
	$(VENV)/bin/python benchmarks/against_trl.py $(ARGS)

bench-llamafactory: $(VENV)/.ready
	$(VENV)/bin/python benchmarks/against_llamafactory.py $(ARGS)

bench-switches: $(VENV)/.ready
	$(VENV)/bin/python benchmarks/switches.py $(ARGS)

bench-ppo: $(VENV)/.ready
	$(VENV)/bin/python benchmarks/ppo_against_trl.py $(ARGS)

bench-rollouts: $(VENV)/.ready
	$(VENV)/bin/python benchmarks/rollouts.py $(ARGS)

bench-references: $(VENV)/.ready
	$(VENV)/bin/python benchmarks/references.py $(ARGS)

bench-prompts: $(VENV)/.ready
	$(VENV)/bin/python benchmarks/shared_prompt.py $(ARGS)

bench-memory: $(VENV)/.ready
	PYTHONPATH=. $(VENV)/bin/python benchmarks/memory.py $(ARGS)

bench-memory-processes: $(VENV)/.ready
	PYTHONPATH=. $(VENV)/bin/python benchmarks/memory_of_processes.py $(ARGS)

bench-step: $(VENV)/.ready
	PYTHONPATH=. $(VENV)/bin/python benchmarks/step_profile.py $(ARGS)

bench-processes: $(VENV)/.ready
	$(VENV)/bin/python benchmarks/processes.py $(ARGS)

bench-scale: $(VENV)/.ready
	PYTHONPATH=. $(VENV)/bin/python benchmarks/scale.py $(ARGS)

bench-kills: $(VENV)/.ready
	$(VENV)/bin/python benchmarks/kills.py $(ARGS)

bench-first-loss: $(VENV)/.ready
	$(VENV)/bin/python benchmarks/first_loss.py $(ARGS)

bench-real-data: $(VENV)/.ready
	$(VENV)/bin/python benchmarks/real_data.py $(ARGS)

bench-methods: $(VENV)/.ready-compare
	$(VENV)/bin/python benchmarks/methods.py $(ARGS)

bench-kill-methods: $(VENV)/.ready
	$(VENV)/bin/python benchmarks/kill_methods.py $(ARGS)

bench-families: $(VENV)/.ready
	$(VENV)/bin/python benchmarks/families.py $(ARGS)

bench-serving: $(VENV)/.ready-serve
	$(VENV)/bin/python benchmarks/serving.py $(ARGS)

bench-data: $(VENV)/.ready
	$(VENV)/bin/python benchmarks/data_scale.py $(ARGS)

bench-merge: $(VENV)/.ready
	$(VENV)/bin/python benchmarks/merge.py $(ARGS)

readme: $(VENV)/.ready
	$(VENV)/bin/python tests/console/readme.py

reference: $(VENV)/.ready
	$(VENV)/bin/python -m pipeline.reference

newest:
	$(PYTHON) tests/newest.py $(ARGS)

# Installed with pinned versions (constraints.txt has what they need in turn); nothing outside .venv.
$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name it with PYTHON=..."; exit 1; }
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.ready-compare: $(VENV)/.ready
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .[compare]
	@touch $@

$(VENV)/.ready-serve: $(VENV)/.ready
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .[serve]
	@touch $@

$(addprefix $(VENV)/.ready-,deepspeed docs gguf onnx tasks tensorboard types wandb): $(VENV)/.ready-%: $(VENV)/.ready
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .[$*]
	@touch $@

$(VENV)/.ready-%:
	@echo 'export: FORMAT is gguf or onnx, not $*'; exit 2

$(VENV)/.ready-test: $(VENV)/.ready
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .[test,compare,math,serve,gguf,tensorboard,text,wandb]
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
