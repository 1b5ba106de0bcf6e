"""`vllm-patcher smoke`: what a real engine generates."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from patcher.answer import hand_over, show
from patcher.commands.command import Command
from patcher.commands.completion import complete_case
from patcher.commands.options import json_option
from patcher.errors import DaemonFailed, NoDaemon, UsageError
from patcher.report.document import as_json
from patcher.talk import say
from patcher.text import counted

if TYPE_CHECKING:
    from patcher.smoke.cases import Case, Run

_EPILOG = """\
Exit codes: 0 all of it was generated; 1 an engine that fails; 2 a wrong call;
3 could not be tried, or the place that matters was not reached."""


_EXAMPLES = """
vllm-patcher smoke http://127.0.0.1:8000            # a server that runs
vllm-patcher smoke vllm-openai-patched:0.23.0-patched
vllm-patcher smoke --python .venv --case bf16
"""


@click.command(
    cls=Command, examples=_EXAMPLES, epilog=_EPILOG, short_help="Let a real engine generate."
)
@click.argument("what", required=False, metavar="URL|IMAGE")
@click.option(
    "--python",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="An interpreter, or a virtual environment, that has vLLM; in an image's place.",
)
@click.option(
    "--case",
    "cases",
    shell_complete=complete_case,
    multiple=True,
    metavar="NAME",
    help="Only this form of the weights (bf16, w4a16, gptq, awq, glm, int8, fp8-marlin); may be "
    "repeated. Default: what the image's patches claim to cure, and bf16 as the control.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=1),
    default=600,
    show_default=True,
    metavar="SECONDS",
    help="The limit for one case, or for one answer of a server.",
)
@json_option
@click.pass_context
def smoke(
    context: click.Context,
    what: str | None,
    python: Path | None,
    cases: Sequence[str],
    timeout: float,
    as_data: bool,
) -> None:
    """Let a real engine generate: a green health check proves nothing.

    URL is a running vLLM server, as http://127.0.0.1:8000: it is asked for its health, its models,
    a short and a long generation, one that shares a prefix, and timed. A key is taken from
    VLLM_API_KEY.

    IMAGE, in the Docker daemon, or --python PATH: a small model made of a config only, with its
    weights in each form, answers a prompt that must be read in chunks, on this machine's GPU.
    No checkpoint is needed, and none is loaded.
    """
    if (what is None) is (python is None):
        raise UsageError("say what to try", next_step="Give a URL or an image, or --python PATH.")
    if python is not None:
        from patcher.rules.catalogue import catalogue
        from patcher.smoke.cases import cases_of, select_cases
        from patcher.smoke.interpreter import interpreter, run_here

        program = interpreter(python)
        wanted = select_cases(cases) if cases else cases_of(catalogue())
        _cases(context, str(python), wanted, partial(run_here, program), timeout, as_data)
    elif what is not None and what.startswith(("http://", "https://")):
        if cases:
            raise UsageError("--case is not for a server", next_step="Leave it out for a URL.")
        _server(context, what, timeout, as_data)
    elif what is not None:
        _image(context, what, cases, timeout, as_data)


def _image(
    context: click.Context, name: str, cases: Sequence[str], timeout: float, as_data: bool
) -> None:
    from patcher.daemon.client import connect
    from patcher.daemon.engine import local_image
    from patcher.report.smoke import engine_lines
    from patcher.smoke.cases import CONTROL, cases_of, select_cases
    from patcher.smoke.container import claimed, engine_of, gpu, run_in

    try:
        image = local_image(connect(), name)
    except (NoDaemon, DaemonFailed) as error:
        if re.fullmatch(r"[\w.-]+:\d{2,5}(/v1)?/?", name):
            step = f"If it is a server, name it by its address: http://{name}"
            raise type(error)(error.problem, next_step=step) from error
        raise
    engine = engine_of(image, name)
    for line in engine_lines(engine):
        say(line)
    wanted = select_cases(cases) if cases else cases_of(claimed(image))
    if not cases and wanted == (CONTROL,):
        say("no case is claimed by this image's patches: the control alone is tried; see --case")
    _cases(context, name, wanted, partial(run_in, engine, gpu()), timeout, as_data)


def _server(context: click.Context, url: str, timeout: float, as_data: bool) -> None:
    from patcher.report.smoke import served_lines, step_line
    from patcher.smoke.identity import KEY
    from patcher.smoke.server import smoke_server
    from patcher.web.openai import open_server

    tell = say if as_data else _show
    server = open_server(url, os.environ.get(KEY), timeout)
    served = smoke_server(server, lambda step: tell(step_line(step)))
    if as_data:
        hand_over(as_json("smoke", target=server.url, server=served))
    for line in served_lines(served):
        say(line)
    context.exit(served.exit)


def _show(line: str) -> None:
    show([line])


def _cases(
    context: click.Context,
    target: str,
    cases: Sequence[Case],
    run: Run,
    timeout: float,
    as_data: bool,
) -> None:
    from patcher.report.smoke import case_line, cases_summary, traceback_lines
    from patcher.smoke.cases import exit_of, run_cases

    said = f"{target}: {counted(len(cases), 'case')}, one after the other"
    say(f"{said}, some 30 s each on a GPU")
    outcomes = []
    for outcome in run_cases(cases, run, timeout):
        outcomes.append(outcome)
        for line in traceback_lines(outcome):
            say(line)
        if as_data:
            say(case_line(outcome))
        else:
            show([case_line(outcome)])
    if as_data:
        hand_over(as_json("smoke", target=target, cases=outcomes))
    say(cases_summary(outcomes))
    context.exit(exit_of(outcomes))
