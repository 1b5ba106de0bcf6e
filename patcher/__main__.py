"""The entry point: runs a command and turns whatever happens into a message and an exit code."""

from __future__ import annotations

import os
import signal
import sys

from patcher.errors import Exit, PatcherError, Undecided, UsageError

INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it


def main() -> None:
    """Run `vllm-patcher`. No traceback ever reaches the user."""
    # A path may hold bytes that no encoding has.
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.reconfigure(errors="backslashreplace")
    # A job that is cancelled is asked to end by this signal: it takes back what it began, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(_run(sys.argv[1:]))
    except KeyboardInterrupt:
        # In the very first moments, while modules are still imported.
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has gone; there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(Exit.OK)


def _run(arguments: list[str]) -> int:
    import click

    from patcher.cli import cli

    try:
        result = cli(arguments, prog_name="vllm-patcher", standalone_mode=False)
        print(end="", flush=True)  # a closed stream cannot be flushed
        return result if isinstance(result, int) else Exit.OK
    except click.ClickException as error:
        error.show()
        if "--json" in arguments:
            said = UsageError(error.format_message(), next_step="See --help.")
            click.echo(_as_json(said, arguments))
        return error.exit_code if error.exit_code == Exit.USAGE else Exit.UNDECIDED
    except PatcherError as error:
        return _tell(error, arguments)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted: no file, image or tag was left half-done", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except Exception as error:
        return _tell(_unexpected(error), arguments)


def _tell(error: PatcherError, arguments: list[str]) -> int:
    if "--json" in arguments:
        print(_as_json(error, arguments))
    print(f"error: {error.problem}", file=sys.stderr)
    print(f" next: {error.next_step}", file=sys.stderr)
    return int(error.exit_code)


def _as_json(error: PatcherError, arguments: list[str]) -> str:
    from patcher.report.text import error_json

    return error_json(error, arguments)


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
