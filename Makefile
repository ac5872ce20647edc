# Each target is a few plain commands; README lists them for people without make.
#   make course   run every lesson, two at a time on two cores; ARGS=--help says more
#   make lab      open them in JupyterLab
#   make kernel   offer them to a Jupyter that runs already (JupyterHub, AutoDL, ModelScope): kernel "RLHF course"
#   make test     lint, tests, notebooks    make build   corpus and tiny models only
#   make doctor   what is missing here      make clean   remove runs and caches
#   make slides   the talks, HTML and PDF in output/slides/ (needs node, chromium, a Chinese font)
#   make site     all lessons as a web site in output/site/, both languages, to be read without a network
#   make test-browser  every lesson in JupyterLab in a real Chromium; LESSONS="00 06": only these
#   make ready LESSON=07   what that lesson needs of the earlier ones, so that a class joins anywhere
#   make student  copies for a class in output/student/ and output/teacher/; ARGS=--run runs them too
#   make pipeline SFT, reward model, PPO, rejection sampling without a notebook; ARGS=--again trains anew
#   make serve    two models side by side on a page; ARGS="sft_1 rs_4" names others
#   make bench    a PPO step beside TRL 0.11.4, in an environment of its own (some 2 GB); ARGS=--help says more
#   make frontier every method of lesson 09 at several strengths and seeds; ARGS=--help says more
# Settings: PYTHON=python3.12 (which Python), VENV=.venv (where), RLHF_PROFILE=offline|imdb|full,
#           JOBS=2 (how many tests run at once).

SHELL := /bin/bash
VENV ?= .venv
PYTHON ?=
RLHF_PROFILE ?= offline
JOBS ?= 2
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export RLHF_PROFILE
export OMP_WAIT_POLICY = passive
export PIP_DISABLE_PIP_VERSION_CHECK = 1
# Some machines set it: every process would compile all of rlhf and what pip left uncompiled, every time.
unexport PYTHONDONTWRITEBYTECODE
# the kernels of this environment, whatever else is installed on the machine
export JUPYTER_PREFER_ENV_PATH = 1

.DEFAULT_GOAL := help
.PHONY: help setup build course lab kernel bench pipeline serve site slides student ready test test-browser browser lint doctor clean

help:
	@sed -n '1,/^$$/s/^# \{0,1\}//p' Makefile

setup: $(STAMP)

$(STAMP): requirements.txt pyproject.toml tools/setup.sh
	@PYTHON="$(PYTHON)" VENV="$(VENV)" bash tools/setup.sh

build: setup
	@case "$(RLHF_PROFILE)" in full) ;; *) $(BIN)/python -m rlhf.build --profile "$(RLHF_PROFILE)" ;; esac

course: build
	$(BIN)/python -m tools.lessons execute $(ARGS)

lab: build
	$(BIN)/jupyter lab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks

# For a Jupyter that is not ours: it finds this environment in the user's list of kernels. Run it again after moving the folder.
kernel: build
	$(BIN)/python -m ipykernel install --user --name rlhf --display-name "RLHF course" --env OMP_WAIT_POLICY passive

# What pip could not get is said in words; packages that are here already need no network.
define packages
$(BIN)/pip install -q -r $(1) || { echo "装不上 $(1) 里的包：检查网络或 pip 镜像（见 PLATFORMS.md），再运行一次。" >&2; \
	echo "The packages in $(1) could not be installed: check the network or pip's mirror (PLATFORMS.md), run it again." >&2; exit 2; }
endef

# The four stages in a row, from the recipes in recipes/, and one table; ARGS=--help says more.
pipeline: build
	$(BIN)/python -m rlhf.pipeline --profile "$(RLHF_PROFILE)" $(ARGS)

# Sphinx and its theme go into the same environment; it shows committed outputs and runs nothing.
site: setup
	@$(call packages,requirements-site.txt)
	$(BIN)/python -m tools.site

# The talks that go with the lessons. System packages: apt install nodejs npm chromium fonts-noto-cjk
slides: setup
	$(BIN)/python -m tools.slides

# A class joins anywhere: what the earlier lessons would have left. ARGS=--plan only says what is missing.
ready: setup
	$(BIN)/python -m rlhf.ready "$(LESSON)" --profile "$(RLHF_PROFILE)" $(ARGS)

# Notebooks in one language: students' without solutions, teachers' with a plan of the time.
student: setup
	$(BIN)/python -m tools.editions $(ARGS)

# Two models side by side, and an OpenAI-compatible server over both; on this machine only.
serve: build
	$(BIN)/python -m rlhf.serve --open $(ARGS)

# Adds to benchmarks/results/frontier_<profile>.json what is missing there; goes on where it was stopped.
frontier: build
	$(BIN)/python -m rlhf.frontier --profile "$(RLHF_PROFILE)" $(ARGS)

# Goes on where it was stopped. The legacy side's environment and the models are kept in ~/.cache/rlhf-course.
bench: setup
	$(BIN)/python benchmarks/speed.py $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The tests and the committed notebooks are those of the offline profile, whatever RLHF_PROFILE says.
# Models this small gain little from a second thread, so it is tests, not threads, that run side by side.
test: export RLHF_PROFILE = offline
test: export OMP_NUM_THREADS = 1
test: lint
	env -u OMP_NUM_THREADS $(BIN)/python -m rlhf.build --profile offline
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder tests
	$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup --nbmake --nbmake-timeout=600 --timeout=1800 notebooks

# Opens the lessons in a real browser, runs them there and looks. Needs a Chromium (apt install chromium).
# LESSONS="00 06": only these.
test-browser: export RLHF_PROFILE = offline
test-browser: browser build site
	@$(call packages,requirements-browser.txt)
	RLHF_BROWSER=1 RLHF_BROWSER_LESSONS="$(LESSONS)" $(BIN)/python -m pytest tests/browser

# Asked first, not after minutes of building.
browser: setup
	@$(BIN)/python -m tools.system chromium

# Works before anything is installed, with whatever Python there is.
doctor:
	@$$([ -x $(BIN)/python ] && echo $(BIN)/python || echo python3) -m rlhf.doctor

clean:
	rm -rf output .pytest_cache .ruff_cache build dist *.egg-info
