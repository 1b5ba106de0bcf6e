"""TRITON_MLA reads the context of a decode step in four pieces, however long it is."""

from __future__ import annotations

from patcher.rules.patch import Example, Patch
from patcher.rules.replace import Change, Replace, Shape
from patcher.rules.several import FirstOf

_FILE = "vllm/v1/attention/backends/mla/triton_mla.py"


def _split(function: str, invariant: str) -> Change:
    """The choice of a function whose condition for one split is `invariant`.

    0.20.0's choice. Not its way to the number of SMs, which 0.15 has not; and where the platform
    is not CUDA or ROCm (XPU has no multi_processor_count) all stays as it was.
    """
    return Change(
        _FILE,
        f"TritonMLAImpl.{function}",
        old=f"num_kv_splits = 1 if {invariant} else 4",
        new=f"""\
if {invariant}:
    num_kv_splits = 1
elif not q.is_cuda:
    num_kv_splits = 4
else:
    # A split is worth 512 tokens; more than two blocks an SM only wait.
    ideal_splits = max(1, attn_metadata.max_seq_len // 512)
    sm_count = torch.cuda.get_device_properties(q.device).multi_processor_count
    num_kv_splits = min(1 << (ideal_splits - 1).bit_length(), 2 * sm_count)
""",
    )


PATCH = Patch(
    name="triton-mla-kv-splits",
    version=1,
    title="split TRITON_MLA's decode by length and GPU",
    why=(
        "TRITON_MLA, the one MLA backend of a DGX Spark, reads a sequence's whole context in four "
        "pieces in each decode step: with one request most of the GPU waits, and the longer the "
        "context, the slower. From 0.20.0 on the number follows the length and the GPU; this is "
        "that choice, with its price: short contexts get two splits instead of four (an H100 wrote "
        "125 tokens a second instead of 165 at 1,024 of context, 114 instead of 67 at 8,192), and "
        "the scratch memory grows with the splits."
    ),
    targets=(_FILE,),
    rule=FirstOf(
        (
            Replace(
                (_split("forward_mqa", "envs.VLLM_BATCH_INVARIANT"),),
                # Upstream's, from 0.20.0, and in a function of its own from 0.26.0.
                instead=(
                    Shape(_FILE, "TritonMLAImpl.forward_mqa", "min(ideal_splits, max_splits)"),
                    Shape(_FILE, "_compute_num_kv_splits", "min(ideal_splits, max_splits)"),
                ),
            ),
            Replace((_split("forward_mqa", "vllm_is_batch_invariant()"),)),
            Replace((_split("_forward_decode", "vllm_is_batch_invariant()"),)),
        )
    ),
    upstream=((33529, "fix, in 0.20.0"),),
    affected=(">=0.12.0,<0.20.0",),
    valid=(
        """\
class TritonMLAImpl:
    def forward_mqa(self, ideal_splits, max_splits):
        num_kv_splits = min(ideal_splits, max_splits)
""",
    ),
    invalid=(
        Example(
            before="""\
class TritonMLAImpl:
    def _forward_decode(self, q, attn_metadata):
        num_kv_splits = 1 if vllm_is_batch_invariant() else 4
""",
            after="""\
class TritonMLAImpl:
    def _forward_decode(self, q, attn_metadata):
        if vllm_is_batch_invariant():
            num_kv_splits = 1
        elif not q.is_cuda:
            num_kv_splits = 4
        else:
            # A split is worth 512 tokens; more than two blocks an SM only wait.
            ideal_splits = max(1, attn_metadata.max_seq_len // 512)
            sm_count = torch.cuda.get_device_properties(q.device).multi_processor_count
            num_kv_splits = min(1 << (ideal_splits - 1).bit_length(), 2 * sm_count)
""",
        ),
    ),
)
