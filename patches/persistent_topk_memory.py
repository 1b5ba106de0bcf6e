"""The persistent top-k kernel is chosen where its fallback's shared memory does not fit."""

from __future__ import annotations

from patcher.rules.patch import Patch
from patcher.rules.replace import Change, Replace
from patcher.rules.several import FirstOf

_INDEXER = "vllm/model_executor/layers/sparse_attn_indexer.py"
_DISPATCHER = "vllm/model_executor/layers/indexer_topk.py"

_ENOUGH = (
    "torch.cuda.get_device_properties(logits.device).shared_memory_per_block_optin >= 128 * 1024"
)

PATCH = Patch(
    name="persistent-topk-memory",
    version=2,
    title="persistent top-k only where 128 KB of shared memory are there",
    why=(
        "Sparse attention takes persistent_topk on every CUDA device. With a long context the "
        "kernel falls back to one that needs 128 KB of shared memory a block; GB10, RTX 50 and "
        "SM89 have 101,376 bytes, and the launch fails. The row-wise kernel that vLLM has beside "
        "it needs less."
    ),
    targets=(_DISPATCHER, _INDEXER),
    rule=FirstOf(
        (
            Replace(
                (
                    Change(
                        _DISPATCHER,
                        "SparseIndexerTopk._resolve_auto",
                        old="self._is_cuda and topk_tokens in (512, 1024, 2048)",
                        new=f"self._is_cuda and topk_tokens in (512, 1024, 2048) and {_ENOUGH}",
                    ),
                )
            ),
            # 0.20.1 alone: 1024 only on SM10x, 512 and 2048 on every device.
            Replace(
                (
                    Change(
                        _INDEXER,
                        "sparse_attn_indexer",
                        old="current_platform.is_cuda() and topk_tokens in allowed_topk",
                        new=(
                            "current_platform.is_cuda() and topk_tokens in allowed_topk"
                            f" and {_ENOUGH}"
                        ),
                    ),
                )
            ),
            Replace(
                (
                    Change(
                        _INDEXER,
                        "sparse_attn_indexer",
                        old="current_platform.is_cuda() and topk_tokens in (512, 1024, 2048)",
                        new=(
                            "current_platform.is_cuda() and topk_tokens in (512, 1024, 2048)"
                            f" and {_ENOUGH}"
                        ),
                    ),
                )
            ),
        )
    ),
    upstream=(
        (45317, "issue: SM121, the fallback needs 128 KB"),
        (50576, "issue: the kernel is chosen on every capability"),
    ),
    affected=(">=0.20.0",),
    valid=(),
    invalid=(),
)
