# Two commands do everything; both set up .venv first.
#
#   make book    execute the chapters and build the book into _build/html
#   make test    run the whole test suite
#
# and the steps that they are made of:
#
#   make setup   the environment alone
#   make lint    ruff and mypy, which see the cells of the chapters as well
#   make execute the chapters alone, into _build/executed/PROFILE
#   make html    the book from chapters that are executed already
#   make browse  open every page of the built book in a browser, and check it
#   make bench   measure speed and scale, for chapter 14 (twenty minutes on two quiet cores)
#   make records make the results of record, NAME="words sts", or all that this code has not made yet
#   make start   record the run of the start page anew (a minute)
#   make pdf     the built book as one file to print: _build/conjuring.pdf
#   make train   make, or go on making, the embedded model (hours)
#   make clean   remove what was built, keep the environment
#
# PROFILE=ci|book|full|gpu picks the parameters of the chapters (notebooks/profiles), JOBS=1 how many are
# executed at a time, and PYTHON=python3.12 the interpreter that .venv is made with.

PYTHON ?= python3
PROFILE ?= book
BIN := .venv/bin
READY := .venv/.ready

.PHONY: help setup book test lint execute html browse bench records start pdf train clean
.DEFAULT_GOAL := help

help:
	@sed -n '/^#/!q;s/^# \{0,1\}//p' Makefile

setup: $(READY)

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, and $(PYTHON) is " + sys.version.split()[0] + ": try make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --requirement requirements.txt --editable .
	@touch $@

book: execute
	PYTHONPATH=notebooks $(BIN)/python book/build_book.py --profile $(PROFILE)

execute: $(READY)
	$(BIN)/python book/execute.py --profile $(PROFILE) $(if $(JOBS),--jobs $(JOBS))

html: $(READY)
	PYTHONPATH=notebooks $(BIN)/python book/build_book.py --profile $(PROFILE)

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --ignore=tests/test_site.py \
		--numprocesses logical --maxprocesses 4 --dist loadfile

browse: $(READY)
	$(BIN)/python -m pytest tests/test_site.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/nbqa mypy notebooks --no-color-output

bench: $(READY)
	PYTHONPATH=book $(BIN)/python bench/bench.py --again

records: $(READY)
	cd notebooks && ../$(BIN)/python -m studies.records $(NAME)

start: $(READY)
	$(BIN)/python book/recording.py

pdf: $(READY)
	PYTHONPATH=notebooks $(BIN)/python book/print_book.py

train: $(READY)
	$(BIN)/python -m training

clean:
	rm -rf _build build
