"""The `raydet` command: finds the sub-command and turns a user's mistake into one message and exit code 2."""

from __future__ import annotations

import argparse
import io
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from raydet import __version__
from raydet.commands import check_data, compare, doctor, evaluate, export, init, label, proposals, report, train, tune
from raydet.errors import RunError, RunStopped, Terminated, UserError
from raydet.faults import explain
from raydet.registry import family_commands

COMMANDS = (
    init,
    train,
    tune,
    evaluate,
    label,
    proposals,
    check_data,
    doctor,
    export,
    report,
    compare,
    *family_commands(),
)


RESUME = "go on with --resume"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code: 0 done, 1 failed, 2 the user's mistake, 130 interrupted,
    143 stopped by SIGTERM or through RUN/stop, with a checkpoint where there was time for one, 141 the reader of the
    output is gone.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # results must not be lost to a terminal that lacks a letter
            stream.reconfigure(errors="backslashreplace")
    arguments = parsed(argv)
    return run_guarded(lambda: arguments.run(arguments), again=RESUME if hasattr(arguments, "resume") else "")


def parsed(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return a command line, read; its `run` is the command. What cannot be read ends the process with exit code 2."""
    parser = argparse.ArgumentParser(
        prog="raydet",
        description="Detectors, localizers and classifiers from few labels, and pre-training without labels, on Ray.",
    )
    parser.add_argument("--version", action="version", version=f"raydet {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    arguments, rest = parser.parse_known_args(argv)
    # argparse takes no overrides behind an option: `raydet train config.yaml --resume optim.steps=9` leaves them over.
    if any(word.startswith("-") for word in rest) or (rest and not hasattr(arguments, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        arguments.overrides += rest
    return arguments


def run_guarded(command: Callable[[], int | None], *, again: str = RESUME) -> int:
    """Run a command; what went wrong becomes one message on stderr, Ctrl-C and SIGTERM a hint: `again` says how to go
    on, where that can be. Returns the exit code.

    What nobody foresaw keeps its traceback, and is said to be a bug.
    """
    hint = f"; {again}" if again else ""
    try:
        with _sigterm_raises():
            code = int(command() or 0)
            sys.stdout.flush()  # here, where a closed pipe can still be told from other errors
            return code
    except BrokenPipeError as error:
        return 141 if _reader_is_gone() else _unforeseen(error)  # as a shell reports what SIGPIPE ended: `... | head`
    except UserError as error:
        print(f"raydet: error: {error}", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"raydet: failed: {error}", file=sys.stderr)
        return 1
    except RunStopped as stopped:
        print(f"raydet: {stopped}{hint}", file=sys.stderr)
        return 143
    except Terminated:
        print(f"\nraydet: terminated{hint}", file=sys.stderr)
        return 143
    except KeyboardInterrupt:
        print(f"\nraydet: interrupted{hint}", file=sys.stderr)
        return 130
    except Exception as error:
        return _unforeseen(error)


def _unforeseen(error: Exception) -> int:
    """Say in raydet's words what others raised; what nobody knows is a bug. Returns the exit code."""
    if (said := explain(error)) is not None:
        print(f"raydet: failed: {said}", file=sys.stderr)
        return 1
    traceback.print_exception(error)
    print(
        f"raydet: this is a bug in raydet {__version__} (Python {sys.version.split()[0]}): please report it, with the "
        f"lines above and the command",
        file=sys.stderr,
    )
    return 1


def _reader_is_gone() -> bool:
    """Return whether nobody reads standard output any more; what is left to say then goes nowhere, without an error."""
    try:
        number = sys.stdout.fileno()
    except (OSError, ValueError):  # something that is no file
        return False
    poll = select.poll()
    poll.register(number, 0)
    if not any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    return True


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Within the block SIGTERM unwinds like Ctrl-C, so that nothing is left running. Only a main thread has signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
