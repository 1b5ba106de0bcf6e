"""The entry point: runs a command and turns whatever happens into a message and an exit code."""

from __future__ import annotations

# Built in: the module `signal` takes some milliseconds to come.
import _signal as signal  # type: ignore[import-not-found]

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # Until `main` is there to catch it, Ctrl-C ends this as it ends a program in C: no traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import contextlib
import gc
import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

from patcher.answer import hand_over
from patcher.errors import Exit, PatcherError, Undecided, Unwritable, UsageError

if TYPE_CHECKING:
    from types import FrameType

    import click
    from _typeshed import ReadableBuffer

# Python looks for garbage at every 700th new object (3.13: 2,000th), and a syntax tree has 100,000
# that are none. That was 2.2 of the 7.4 seconds of CPU of a cold `landed`.
gc.set_threshold(50_000)

# Each ends the program as Ctrl-C does, which takes back what it began: a job that is cancelled gets
# SIGTERM, one whose terminal is closed SIGHUP.
_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class OutputLost(Unwritable):
    """Standard output did not take the answer: a full disk, or a reader that has gone."""


class _Data(io.FileIO):
    """Standard output, where the answer goes."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            # What is still in a buffer is written again at the very end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            raise OutputLost(
                f"standard output cannot be written: {error.strerror}",
                next_step="Check the free space and who reads it, and run it again.",
            ) from None


class _Talk(io.FileIO):
    """Standard error: what cannot be written there is dropped, and the work goes on."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def main() -> None:
    """Run `vllm-patcher`. No traceback ever reaches the user."""
    code = None
    with contextlib.suppress(KeyboardInterrupt):
        for number in _ENDINGS:
            if signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores SIGHUP
                signal.signal(number, _end)
        _open_streams()
        code = _run(sys.argv[1:])
    sys.exit(_interrupted() if code is None else code)


# The number of each signal that came to end the program.
_came: list[int] = []


def _end(number: int, _: FrameType | None) -> None:
    _came.append(number)
    # They come in pairs, from the terminal and from its shell. Only Ctrl-C can be meant twice.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    raise KeyboardInterrupt


def _interrupted() -> int:
    """The exit code as a shell reports it: 128 and the signal's number."""
    return 128 + (_came[0] if _came else int(signal.SIGINT))


def _open_streams() -> None:
    """Streams that fail as `_Data` and `_Talk` say, also where the caller has closed them.

    A number that is free would be given to the next file that is opened, and what a child process
    prints would end up in it.
    """
    for number, flags in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # takes the lowest number that is free
            os.set_inheritable(number, True)
    # A test may have put others in their place.
    if sys.stdout is sys.__stdout__:
        sys.stdout = _text(_Data(1, "w", closefd=False))
    if sys.stderr is sys.__stderr__:
        sys.stderr = _text(_Talk(2, "w", closefd=False))


def _text(raw: io.FileIO) -> TextIO:
    # A path may hold bytes that no encoding has.
    return io.TextIOWrapper(
        io.BufferedWriter(raw), errors="backslashreplace", line_buffering=raw.isatty()
    )


def _run(arguments: list[str]) -> int:
    import click

    from patcher.cli import cli

    try:
        result = cli(arguments, prog_name="vllm-patcher", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else Exit.OK
    except click.ClickException as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()
            return Exit.USAGE
        code = Exit.USAGE if error.exit_code == Exit.USAGE else Exit.UNDECIDED
        return _tell(_wrong_call(error), arguments, code)
    except PatcherError as error:
        return _tell(error, arguments)
    except (KeyboardInterrupt, click.Abort):
        from patcher.talk import complain

        complain("interrupted: no file, image or tag was left half-done")
        return _interrupted()
    except Exception as error:
        return _tell(_unexpected(error), arguments)


def _wrong_call(error: click.ClickException) -> UsageError:
    """What click found wrong; an argument that it repeats may be third-party text."""
    context = getattr(error, "ctx", None)
    if context is None:
        return UsageError(error.format_message(), next_step="See --help.")
    print(context.get_usage(), file=sys.stderr)
    return UsageError(error.format_message(), next_step=f"See {context.command_path} --help.")


def _tell(error: PatcherError, arguments: list[str], code: int | None = None) -> int:
    from patcher.terminal import fitted, takes_colour, width_of

    coloured = takes_colour(sys.stderr)
    parts = (("error:", "1;31", error.problem), (" next:", "1", error.next_step))
    for mark, style, text in parts:
        first, *more = fitted(f"{mark} {text}", width_of(sys.stderr))
        shown = f"\x1b[{style}m{mark}\x1b[0m" if coloured else mark
        for line in (f"{shown}{first.removeprefix(mark)}", *more):
            print(line, file=sys.stderr)
    return _answer(error, arguments, int(error.exit_code) if code is None else code)


def _answer(error: PatcherError, arguments: list[str], code: int) -> int:
    """The error as the answer, for a caller that asked for JSON; the exit code."""
    if "--json" in arguments and not isinstance(error, OutputLost):
        from patcher.report.document import error_json

        try:
            hand_over(error_json(error, arguments))
        except OutputLost as lost:
            return _tell(lost, arguments)
    return code


def _unexpected(error: Exception) -> PatcherError:
    """A bug in this program: named with its place, so that a report of it can be acted on."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    place = ""
    if frame is not None:
        code = frame.tb_frame.f_code
        place = f" in {os.path.basename(code.co_filename)}:{frame.tb_lineno}"  # noqa: PTH119
    return Undecided(
        f"unexpected {type(error).__name__}{place}: {error}",
        next_step="Please report this with the command that you ran.",
    )


if __name__ == "__main__":
    main()
