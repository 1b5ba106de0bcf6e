"""MLA's prefill reads `kv_b_proj.weight.dtype`, and a packed layer has no `.weight`."""

from __future__ import annotations

from patcher.rules.guard.rule import AttributeGuard
from patcher.rules.patch import Example, Patch

PATCH = Patch(
    name="kv-b-proj-dtype",
    version=1,
    title="guard kv_b_proj.weight.dtype in MLA attention",
    why=(
        "MLA's prefill asks `self.kv_b_proj.weight.dtype` which type the layer wants its input in. "
        "Where kv_b_proj is packed (compressed-tensors W4A16, AWQ, GPTQ: GLM-4.7-Flash-AWQ on a "
        "DGX Spark) the layer has no `.weight`, only `params_dtype`: the engine dies with "
        "AttributeError on the first long prompt or prefix-cache hit. /health answers 200 until "
        "then."
    ),
    targets=("vllm/model_executor/layers/attention/mla_attention.py",),
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
    valid=(
        # upstream's gate, PR 34695
        """\
self.enabled = (
    supported
    and hasattr(self.kv_b_proj, "weight")
    and self.kv_b_proj.weight.dtype == torch.bfloat16
)
""",
        # upstream's value, PR 34695
        """\
dtype = (
    self.kv_b_proj.weight.dtype
    if hasattr(self.kv_b_proj, "weight")
    else self.kv_b_proj.params_dtype
)
""",
        # upstream's helper, PR 38771
        """\
def input_dtype(kv_b_proj):
    weight = getattr(kv_b_proj, "weight", None)
    return weight.dtype if weight is not None else kv_b_proj.params_dtype
""",
        """\
def input_dtype(layer):
    if not hasattr(layer.kv_b_proj, "weight"):
        return layer.kv_b_proj.params_dtype
    return layer.kv_b_proj.weight.dtype
""",
        """\
try:
    dtype = self.kv_b_proj.weight.dtype
except AttributeError:
    dtype = self.kv_b_proj.params_dtype
""",
        # another attribute, another layer
        "shape = self.kv_b_proj.weight.shape\n",
        "dtype = self.q_proj.weight.dtype\n",
    ),
    invalid=(
        Example(
            before="x = x.to(self.kv_b_proj.weight.dtype)\n",
            after="""\
x = x.to(
    self.kv_b_proj.weight.dtype
    if hasattr(self.kv_b_proj, "weight")
    else self.kv_b_proj.params_dtype
)
""",
        ),
        Example(
            before="dtype = proj.kv_b_proj.weight.dtype\n",
            after="""\
dtype = (
    proj.kv_b_proj.weight.dtype
    if hasattr(proj.kv_b_proj, "weight")
    else proj.kv_b_proj.params_dtype
)
""",
        ),
        Example(
            before="d = kv_b_proj.weight.dtype\n",
            after=(
                "d = (kv_b_proj.weight.dtype"
                ' if hasattr(kv_b_proj, "weight") else kv_b_proj.params_dtype)\n'
            ),
        ),
        # a gate: falling back to params_dtype would switch the feature on
        Example(
            before="""\
self.enabled = (
    supported
    and self.kv_b_proj.weight.dtype == torch.bfloat16
)
""",
            after="""\
self.enabled = (
    supported
    and hasattr(self.kv_b_proj, "weight")
    and self.kv_b_proj.weight.dtype == torch.bfloat16
)
""",
        ),
        # no gate: `or`, and not `==`
        Example(
            before="""\
if (
    use_fp8_prefill
    or self.kv_b_proj.weight.dtype != current_platform.fp8_dtype()
):
    pass
""",
            after="""\
if (
    use_fp8_prefill
    or (
        self.kv_b_proj.weight.dtype
        if hasattr(self.kv_b_proj, "weight")
        else self.kv_b_proj.params_dtype
    )
    != current_platform.fp8_dtype()
):
    pass
""",
        ),
        # a guard of something else
        Example(
            before="""\
if hasattr(self.q_proj, "weight"):
    d = kv_b_proj.weight.dtype
""",
            after="""\
if hasattr(self.q_proj, "weight"):
    d = (
        kv_b_proj.weight.dtype
        if hasattr(kv_b_proj, "weight")
        else kv_b_proj.params_dtype
    )
""",
        ),
    ),
    smoke=("w4a16", "gptq", "awq", "glm"),
)
