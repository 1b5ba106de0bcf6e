"""vLLM's own parser takes the arguments of the example's compose file."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.examples.test_glm import service

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.engine
def test_vllms_own_parser_takes_the_arguments(engine: Path) -> None:
    program = (
        "import sys\n"
        "from vllm.entrypoints.launchers.cli_args import make_arg_parser\n"
        "from vllm.entrypoints.launchers.cli_args import validate_parsed_serve_args\n"
        "from vllm.utils.argparse_utils import FlexibleArgumentParser\n"
        "parser = make_arg_parser(FlexibleArgumentParser())\n"
        "parsed = parser.parse_args(sys.argv[1:])\n"
        "validate_parsed_serve_args(parsed)\n"
        "from vllm.reasoning import ReasoningParserManager\n"
        "from vllm.tool_parsers import ToolParserManager\n"
        "ToolParserManager.get_tool_parser(parsed.tool_call_parser)\n"
        "ReasoningParserManager.get_reasoning_parser(parsed.reasoning_parser)\n"
        "print(parsed.gpu_memory_utilization, parsed.speculative_config, parsed.tool_call_parser)\n"
    )
    called = [engine, "-c", program, *service()["command"]]
    done = subprocess.run(called, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == (
        "0.5 {'method': 'mtp', 'num_speculative_tokens': 1} glm47"
    )
    wrong = [*called, "--gpu-memory-utilisation=0.5"]
    refused = subprocess.run(wrong, capture_output=True, text=True, check=False, cwd="/")
    assert "unrecognized arguments: --gpu-memory-utilisation=0.5" in refused.stderr
    assert refused.returncode != 0
