"""MLA's prefill reads `kv_b_proj.weight.dtype`, and a packed layer has no `.weight`."""

from __future__ import annotations

from patcher.guard import AttributeGuard
from patcher.patch import Example, Patch

PATCH = Patch(
    name="kv-b-proj-dtype",
    version=1,
    title="guard kv_b_proj.weight.dtype in MLA attention",
    why=(
        "MLA's prefill asks `self.kv_b_proj.weight.dtype` which type the layer wants its input in. "
        "Where kv_b_proj is packed (compressed-tensors W4A16, AWQ, GPTQ: GLM-4.7-Flash-AWQ on a "
        "DGX Spark) the layer has no `.weight`, only `params_dtype`: the engine dies with "
        "AttributeError on the first long prompt or prefix-cache hit, while /health answers 200."
    ),
    target="vllm/model_executor/layers/attention/mla_attention.py",
    rule=AttributeGuard(
        receiver="kv_b_proj", attribute="weight", member="dtype", fallback="params_dtype"
    ),
    upstream=(
        (34695, "first fix, merged 2026-03-13, in 0.18.0"),
        (36205, "regression, merged 2026-04-02, in 0.20.0"),
        (43263, "issue: still hit"),
        (43888, "issue: still hit"),
        (46490, "issue: still hit"),
        (43889, "fix, closed unmerged"),
        (46218, "fix, closed unmerged"),
        (38771, "second fix, in 0.28.0"),
    ),
    affected=(">=0.15.0,<0.18.0", ">=0.20.0,<0.28.0"),
    valid=(),
    invalid=(Example(before="", after=""),),
)
