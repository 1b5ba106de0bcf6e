"""The cluster kernel for top-k is chosen on SM12x, which cannot launch it."""

from __future__ import annotations

from patcher.rules.patch import Patch
from patcher.rules.replace import Change, Replace, Shape

_INDEXER = "vllm/model_executor/layers/sparse_attn_indexer.py"
_DISPATCHER = "vllm/model_executor/layers/indexer_topk.py"

PATCH = Patch(
    name="cooperative-topk-sm12x",
    version=1,
    title="no cooperative top-k on SM12x",
    why=(
        "Sparse attention chooses cooperative_topk for every capability from 9.0. SM120 and SM121 "
        "(RTX 50, DGX Spark) cannot launch its clusters: the engine dies in its warm-up with "
        "cudaErrorInvalidValue. They have persistent_topk."
    ),
    targets=(_INDEXER, _DISPATCHER),
    rule=Replace(
        (
            Change(
                _INDEXER,
                "sparse_attn_indexer",
                old="""\
                use_cooperative_topk = (
                    current_platform.is_cuda()
                    and topk_tokens in (512, 1024, 2048)
                    and num_rows <= 32
                    and logits.stride(0) % 4 == 0
                    and current_platform.has_device_capability(90)
                )
                """,
                new="""\
                use_cooperative_topk = (
                    current_platform.is_cuda()
                    and topk_tokens in (512, 1024, 2048)
                    and num_rows <= 32
                    and logits.stride(0) % 4 == 0
                    and current_platform.has_device_capability(90)
                    and not current_platform.is_device_capability_family(120)
                )
                """,
            ),
        ),
        # 0.29.0 rewrote the condition around it; from 0.30.0 the choice is made in another file.
        instead=(
            Shape(
                _INDEXER,
                "sparse_attn_indexer",
                "not current_platform.is_device_capability_family(120)",
            ),
            Shape(
                _DISPATCHER,
                "SparseIndexerTopk.__init__",
                "not current_platform.is_device_capability_family(120)",
            ),
        ),
    ),
    upstream=(
        (43008, "the kernel, in 0.24.0"),
        (47164, "fix, in 0.25.0"),
    ),
    affected=(">=0.24.0,<0.25.0",),
    valid=(),
    invalid=(),
)
