"""TRITON_MLA's decode speed with four splits and with `triton-mla-kv-splits`, on this GPU.

`python -m bench.gpu.decode OUT TREE AFFECTED`. TREE is a folder with an installed vLLM of 0.20 to
0.25, which chooses its splits by itself; in a copy the four of older releases are put back, and
`vllm-patcher patch --in-place` is run on another such copy. The engine then decodes after contexts
of several lengths, one request at a time: a model with the layers and heads of GLM-4.7-Flash, its
experts as one dense layer of the size that a token uses, with dummy weights.

AFFECTED is a folder with two files of an affected release (and an empty `vllm/__init__.py`),
`vllm/v1/attention/backends/mla/triton_mla.py` and
`vllm/v1/attention/ops/triton_decode_attention.py`: its own decode, as released and patched, is
timed on tensors of the same shapes.

Writes OUT/decode.json and OUT/decode.md.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bench.gpu.__main__ import Tree, ours
from patcher.smoke.probe import ENVIRONMENT, model_config

CONTEXTS = (1024, 8192, 32768, 65536)
_FEW, _MANY, _RUNS = 1, 129, 5
_LIMIT = 200
_HEADS, _RANK, _ROPE, _PAGE = 20, 512, 64, 64

_ATTENTION = "vllm/v1/attention/backends/mla/triton_mla.py"
_KERNEL = "vllm/v1/attention/ops/triton_decode_attention.py"
_PATCH = "triton-mla-kv-splits"


def four_splits(folder: Path) -> None:
    """Put the constant of releases before 0.20 back. Raises `ValueError` for other code."""
    path = folder / _ATTENTION
    source = path.read_text()
    [found] = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.If) and ast.unparse(node.test) == "envs.VLLM_BATCH_INVARIANT"
    ]
    lines = source.splitlines(keepends=True)
    old = " " * found.col_offset + "num_kv_splits = 1 if envs.VLLM_BATCH_INVARIANT else 4\n"
    lines[found.lineno - 1 : found.end_lineno] = [old]
    path.write_text("".join(lines))


def patched(folder: Path) -> None:
    done = ours("patch", str(folder), "--in-place", "--patch", _PATCH)
    print(f"{folder.name}: exit {done['exit']}\n{done['talk']}", flush=True)
    if done["exit"]:
        raise SystemExit(1)


def engine(tree: Tree) -> Any:
    """What the engine of a tree does, in a process of its own."""
    command = [sys.executable, "-P", __file__, "engine"]
    told = {"PYTHONPATH": f"{tree.environment['PYTHONPATH']}{os.pathsep}{Path.cwd()}"}
    try:
        ran = subprocess.run(
            command,
            env={**tree.environment, **ENVIRONMENT, **told},
            capture_output=True,
            text=True,
            timeout=_LIMIT,
            check=False,
        )
        output, talk = ran.stdout, ran.stderr
    except subprocess.TimeoutExpired as error:
        output, talk = (error.stdout or b"").decode(), (error.stderr or b"").decode()
    rows = [json.loads(line[7:]) for line in output.splitlines() if line.startswith("DECODE ")]
    if len(rows) < len(CONTEXTS):
        print(f"{tree.name}: {len(rows)} rows\n{output[-3000:]}\n{talk[-5000:]}", flush=True)
    print(tree.name, rows, flush=True)
    return rows


def decode() -> None:
    """In the process: tokens a second after each context, and the tokens."""
    from vllm import LLM, SamplingParams

    config = model_config("gptq")  # DeepSeek's class: GLM's refuses to be without experts
    del config["quantization_config"]
    config |= {
        "hidden_size": 2048,
        "num_hidden_layers": 47,
        "q_lora_rank": 768,
        "qk_nope_head_dim": 192,
        "v_head_dim": 256,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _HEADS,
        "first_k_dense_replace": 47,
        "intermediate_size": 5 * 1536,
        "max_position_embeddings": 2 * CONTEXTS[-1],
    }
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(config))
        llm = LLM(
            model=folder,
            load_format="dummy",
            skip_tokenizer_init=True,
            attention_backend="TRITON_MLA",
            max_model_len=CONTEXTS[-1] + 1024,
            max_num_batched_tokens=8192,
            max_num_seqs=1,
            enable_prefix_caching=True,
            gpu_memory_utilization=0.5,
            compilation_config={"cudagraph_capture_sizes": [1]},
            seed=0,
        )
        for context in CONTEXTS:
            chosen = random.Random(context)  # noqa: S311  # nosec B311
            prompt = [chosen.randrange(2, 1024) for _ in range(context)]

            def took(tokens: int, prompt: list[int] = prompt) -> tuple[float, list[int]]:
                asked = SamplingParams(
                    temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False
                )
                began = time.monotonic()
                [answer] = llm.generate([{"prompt_token_ids": prompt}], asked, use_tqdm=False)
                return time.monotonic() - began, list(answer.outputs[0].token_ids)

            took(_MANY)  # the context into the cache, and the kernels for these splits compiled
            speeds = []
            for _ in range(_RUNS):
                few, (many, tokens) = took(_FEW)[0], took(_MANY)
                speeds.append((_MANY - _FEW) / (many - few))
            row = {"context": context, "speeds": speeds, "tokens": tokens[:8]}
            print(f"DECODE {json.dumps(row)}", flush=True)
    sys.stdout.flush()
    os._exit(0)


def attention(affected: Path, cured: Path) -> list[Any]:
    """Microseconds of an affected release's own decode, as released and patched."""
    import torch
    import triton

    spec = importlib.util.spec_from_file_location("affected_kernel", affected / _KERNEL)
    assert spec is not None
    assert spec.loader is not None
    kernel = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kernel)
    rows = []
    for context in CONTEXTS:
        pages = context // _PAGE
        cache = torch.randn(pages, _PAGE, _RANK + _ROPE, device="cuda").to(torch.bfloat16)
        q = torch.randn(1, _HEADS, _RANK + _ROPE, device="cuda").to(torch.bfloat16)
        table = torch.arange(pages, device="cuda", dtype=torch.int32)[None]
        lengths = torch.tensor([context], device="cuda", dtype=torch.int32)
        metadata = SimpleNamespace(
            decode=SimpleNamespace(block_table=table, seq_lens=lengths), max_seq_len=context
        )
        layer = SimpleNamespace(_k_scale=torch.ones((), device="cuda"))
        layer._v_scale = layer._k_scale
        owner = SimpleNamespace(kv_lora_rank=_RANK, kv_cache_dtype="auto", scale=0.1)
        row: dict[str, Any] = {"context": context}
        outputs = []
        for name, folder in (("released", affected), ("patched", cured)):
            world: dict[str, Any] = {
                "torch": torch,
                "envs": SimpleNamespace(VLLM_BATCH_INVARIANT=False),
                "decode_attention_fwd": kernel.decode_attention_fwd,
            }
            exec(_method((folder / _ATTENTION).read_text(), "forward_mqa"), world)  # noqa: S102
            call = world["forward_mqa"]
            outputs.append(call(owner, q, cache, metadata, layer)[0].float())
            # The middle, and one run in five below and above.
            times = triton.testing.do_bench(
                partial(call, owner, q, cache, metadata, layer),
                quantiles=[0.5, 0.2, 0.8],
            )
            row[name] = [1000 * each for each in times]
        row["difference"] = float((outputs[0] - outputs[1]).abs().max())
        rows.append(row)
    return rows


def _method(source: str, name: str) -> str:
    [node] = [
        each
        for each in ast.walk(ast.parse(source))
        if isinstance(each, ast.FunctionDef) and each.name == name
    ]
    lines = source.splitlines(keepends=True)[node.lineno - 1 : node.end_lineno]
    return "from __future__ import annotations\n" + textwrap.dedent("".join(lines))


def table(found: dict[str, Any]) -> str:
    """The rows as Markdown."""
    engines = found["engine"]
    lines = [
        f"| context | {' | '.join(engines)} |",
        f"|---{'|---' * len(engines)}|",
    ]
    for at, context in enumerate(CONTEXTS):
        cells = [
            _spread(rows[at]["speeds"]) if at < len(rows) else "-" for rows in engines.values()
        ]
        lines.append(f"| {context} | {' | '.join(cells)} |")
    lines += [
        "",
        "| context | as released, µs | patched, µs | largest difference |",
        "|---|---|---|---|",
    ]
    for row in found.get("attention", ()):
        released, cured = (f"{row[name][0]:.0f}" for name in ("released", "patched"))
        lines.append(f"| {row['context']} | {released} | {cured} | {row['difference']:.1g} |")
    return "\n".join(lines) + "\n"


def _spread(speeds: list[float]) -> str:
    return f"{statistics.median(speeds):.1f} ({min(speeds):.1f} to {max(speeds):.1f})"


def main() -> None:
    out, tree, affected = map(Path, sys.argv[1:])
    out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"engine": {}}

    def keep() -> None:
        (out / "decode.json").write_text(json.dumps(found, indent=1))
        (out / "decode.md").write_text(table(found))

    with tempfile.TemporaryDirectory() as work:
        four, cured, older = (Path(work, name) for name in ("four", "cured", "older"))
        shutil.copytree(affected, older)
        patched(older)
        for copy in (four, cured):
            shutil.copytree(tree, copy)
            four_splits(copy)
        patched(cured)
        for name, folder in (("four splits", four), ("patched", cured), ("as released", tree)):
            found["engine"][name] = engine(Tree(name, folder))
            keep()
        sys.path.insert(0, str(tree))
        found["attention"] = attention(affected, older)
        keep()
    print(table(found))


if __name__ == "__main__":
    decode() if sys.argv[1:] == ["engine"] else main()
