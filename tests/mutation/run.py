"""A pytest plugin that tries mutants, each with the tests that reach its line.

    pip install coverage
    python -m pytest -p tests.mutation.run -p no:xdist -p no:cacheprovider -q -s \
        --mutants mutants.jsonl --results results.jsonl tests/unit tests/parity tests/training

Tests are collected once, in a process that has imported everything. A first child measures which test runs which line
and how long it takes. Then each mutant has a child: the code of its functions is exchanged in place, and tests run
until one fails, those first that found mutants of the file before. What is in the results is not tried again.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pickle
import select
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

ROOT = Path(__file__).resolve().parents[2]
LONGEST = 3000.0  # seconds of the measurement


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take the files and the time that a mutant may have."""
    parser.addoption("--mutants", type=Path, required=True, help="what tests.mutation.make wrote")
    parser.addoption("--results", type=Path, required=True, help="a line for each mutant that was tried; lengthened")
    parser.addoption("--seconds", type=float, default=6.0, help="of tests that a mutant has to outlive")


def run_tests(items: Sequence[pytest.Item], begin: Callable[[str], object]) -> Iterator[tuple[str, bool, float]]:
    """Yield each test's name, whether it failed, and its seconds."""
    for item, following in zip(items, [*items[1:], None], strict=True):
        begin(item.nodeid)
        begun = time.perf_counter()
        reports = runtestprotocol(item, log=False, nextitem=following)
        yield item.nodeid, any(report.failed for report in reports), time.perf_counter() - begun


def in_child(work: Callable[[], Any], seconds: float) -> Any:
    """Return what `work` returns in a process of its own, which is killed after so many seconds: then None."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.setpgid(0, 0)
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1), os.dup2(silent, 2)
        try:
            said = pickle.dumps(work())
        except BaseException as error:
            said = pickle.dumps(f"error: {error!r}"[:300])
        with os.fdopen(writing, "wb") as file:
            file.write(said)
        os._exit(0)
    os.close(writing)
    said, end = b"", time.monotonic() + seconds
    while select.select([reading], [], [], max(0.0, end - time.monotonic()))[0]:
        part = os.read(reading, 1 << 16)
        if not part:
            break
        said += part
    else:
        said = b""
    os.close(reading)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # with what the tests have started
    os.waitpid(child, 0)
    return pickle.loads(said) if said else None


def measured(
    items: Sequence[pytest.Item], files: Sequence[str]
) -> tuple[dict[str, float], dict[tuple[str, int], set[str]]]:
    """Return test -> seconds, without those that fail, and (file, line) -> tests that run it."""
    from coverage import Coverage  # type: ignore[import-not-found]  # no part of raydet's environment

    cover = Coverage(include=[str(ROOT / file) for file in files], data_file=None)
    cover.start()
    found = list(run_tests(items, cover.switch_context))
    cover.stop()
    took = {name: seconds for name, failed, seconds in found if not failed}
    reached: dict[tuple[str, int], set[str]] = {}
    for file in files:
        for line, names in cover.get_data().contexts_by_lineno(str(ROOT / file)).items():
            reached[file, line] = {name for name in names if name in took}
    return took, reached


def functions_in(code: CodeType) -> Iterator[CodeType]:
    """Yield the code of all functions and classes in a piece of code."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from functions_in(constant)


def exchange(file: str, changed: str, functions: Sequence[FunctionType]) -> bool:
    """Give the functions of a file the code of its changed text; return whether there was one to give it to."""
    path = str(ROOT / file)
    before, after = (
        {
            (code.co_qualname, code.co_firstlineno): code
            for code in functions_in(compile(text, path, "exec", dont_inherit=True))
        }
        for text in (Path(path).read_text(), changed)
    )
    done = False
    for function in functions:
        code = function.__code__
        own = code.co_qualname, code.co_firstlineno
        if code.co_filename == path and before.get(own) == code and own in after and after[own] != code:
            function.__code__ = after[own]
            done = True
    return done


class Trial:
    """Tries one mutant after the other, and learns which tests find those of a file."""

    def __init__(self, items: Sequence[pytest.Item], files: Sequence[str], seconds: float) -> None:
        for file in files:
            importlib.import_module(file.removesuffix(".py").replace("/", "."))
        found = in_child(lambda: measured(items, files), LONGEST)
        if not isinstance(found, tuple):
            raise pytest.UsageError(f"the tests could not be measured: {found}")
        self.took, self.reached = found
        self.items = {item.nodeid: item for item in items}
        self.seconds, self.found_by = seconds, Counter[tuple[str, str]]()
        gc.collect()
        alive = [each for each in gc.get_objects() if isinstance(each, FunctionType)]
        self.functions = [each for each in alive if each.__code__.co_filename.startswith(str(ROOT / "raydet"))]

    def tests(self, mutant: dict[str, Any]) -> list[pytest.Item]:
        """Return the tests that a mutant has to outlive: some seconds of those that run its statement."""
        file, (first, last) = mutant["file"], mutant["lines"]
        names = set[str]().union(*(self.reached.get((file, line), set()) for line in range(first, last + 1)))
        order = sorted(names, key=lambda name: (self.took[name] + 0.05) / (1 + 10 * self.found_by[file, name]))
        chosen: list[pytest.Item] = []
        spent = 0.0
        for name in order:
            if chosen and spent + self.took[name] > self.seconds:
                break
            chosen.append(self.items[name])
            spent += self.took[name]
        return chosen

    def outcome(self, mutant: dict[str, Any]) -> str:
        """Return `killed by ...`, `survived N tests`, `no test`, `not exchanged`, `timeout` or `error: ...`."""
        chosen = self.tests(mutant)
        if not chosen:
            return "no test"

        def work() -> str:
            if not exchange(mutant["file"], mutant["code"], self.functions):
                return "not exchanged"
            for name, failed, _ in run_tests(chosen, lambda name: None):
                if failed:
                    return f"killed by {name}"
            return f"survived {len(chosen)} tests"

        said = in_child(work, 6 + 3 * sum(self.took[item.nodeid] for item in chosen))
        if said is not None and said.startswith("killed by "):
            self.found_by[mutant["file"], said.removeprefix("killed by ")] += 1
        return "timeout" if said is None else str(said)


def pytest_runtestloop(session: pytest.Session) -> bool:
    """Try every mutant that has no result yet."""
    mutants = [json.loads(line) for line in session.config.getoption("--mutants").read_text().splitlines()]
    results: Path = session.config.getoption("--results")
    key = ("file", "old", "new", "lines")
    known = (
        {json.dumps([json.loads(line)[k] for k in key]) for line in results.read_text().splitlines()}
        if results.exists()
        else set()
    )
    left = [mutant for mutant in mutants if json.dumps([mutant[k] for k in key]) not in known]
    trial = Trial(session.items, sorted({mutant["file"] for mutant in mutants}), session.config.getoption("--seconds"))
    counts: Counter[str] = Counter()
    with results.open("a") as file:
        for mutant in left:
            said = trial.outcome(mutant)
            counts[said.split(" ")[0]] += 1
            print(json.dumps({k: mutant[k] for k in key} | {"outcome": said}), file=file, flush=True)
    print(dict(counts))
    return True
