"""triton-mla-kv-splits: how many splits a decode step takes, by length and number of SMs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.patches.wheels import ReleaseFile, patch_named, patched, run
from tests.rules.guard.test_releases import RELEASES

# In one worker, they patch each file once.
pytestmark = [pytest.mark.no_cover, pytest.mark.xdist_group("patches")]

NAME = "triton-mla-kv-splits"
TARGET = "vllm/v1/attention/backends/mla/triton_mla.py"
AFFECTED = [version for version in RELEASES if version < "0.20"]

# Around each power of two of splits, and far beyond the most that a GPU is given; 48 SMs are a
# GB10's, 132 an H100's.
LENGTHS = sorted({1, *(512 * 2**n + more for n in range(13) for more in (-1, 0, 1, 300))})
SMS = (1, 20, 48, 84, 132, 188)


def next_power_of_2(number: int) -> int:
    """Triton's, which is not installed here."""
    power = 1
    while power < number:
        power *= 2
    return power


class Tensor:
    """One that is there; nothing of it matters but whether it is CUDA's."""

    def __init__(self, is_cuda: bool = True) -> None:
        self.is_cuda = is_cuda
        self.shape, self.dtype, self.device = (1, 20, 576), "bfloat16", "cuda:0"

    def __getitem__(self, _: object) -> Tensor:
        return self

    def unsqueeze(self, _: int) -> Tensor:
        return self

    def numel(self) -> int:
        return 1

    def size(self, _: int) -> int:
        return 64


class Decode:
    """A release's decode, up to its kernel."""

    def __init__(self, data: bytes) -> None:
        self.device = SimpleNamespace(multi_processor_count=0)
        self.envs = SimpleNamespace(VLLM_BATCH_INVARIANT=False)
        self.handed: list[Any] = []
        torch = SimpleNamespace(
            Tensor=Tensor,
            float32="float32",
            zeros=lambda *_, **__: None,
            empty=lambda *_, **__: None,
            cuda=SimpleNamespace(get_device_properties=lambda _: self.device),
        )
        function = "_forward_decode" if b"def _forward_decode(" in data else "forward_mqa"
        self.decode = run(
            data,
            f"TritonMLAImpl.{function}",
            torch=torch,
            triton=SimpleNamespace(next_power_of_2=next_power_of_2),
            envs=self.envs,
            vllm_is_batch_invariant=lambda: self.envs.VLLM_BATCH_INVARIANT,
            decode_attention_fwd=lambda *given, **_: self.handed.append(given[8]),
        )

    def splits(self, length: int, sms: int, *, invariant: bool = False, cuda: bool = True) -> Any:
        """The splits that the kernel is handed."""
        self.device.multi_processor_count, self.envs.VLLM_BATCH_INVARIANT = sms, invariant
        this = SimpleNamespace(kv_lora_rank=512, kv_cache_dtype="auto", scale=1.0, _sm_count=sms)
        metadata = SimpleNamespace(
            decode=SimpleNamespace(block_table=None, seq_lens=None), max_seq_len=length
        )
        layer = SimpleNamespace(_k_scale=None, _v_scale=None)
        self.decode(this, Tensor(cuda), Tensor(), metadata, layer)
        return self.handed.pop()


def test_the_splits_are_those_of_0_20(release_file: ReleaseFile) -> None:
    patch = patch_named(NAME, release_file)
    upstream = Decode(release_file("0.20.0", TARGET))
    wanted = {(sms, length): upstream.splits(length, sms) for sms in SMS for length in LENGTHS}
    # Releases next to each other often have the same file.
    for stock, version in {release_file(version, TARGET): version for version in AFFECTED}.items():
        before, after = Decode(stock), Decode(patched(patch, {TARGET: stock})[TARGET])
        assert {before.splits(length, 48) for length in LENGTHS} == {4}, version
        assert {each: after.splits(each[1], each[0]) for each in wanted} == wanted, version
        assert {after.splits(length, 48) for length in LENGTHS} >= {1, 2, 4, 64, 96}, version
        assert after.splits(65536, 48, invariant=True) == 1, version
        # Neither CUDA nor ROCm: as it was.
        assert after.splits(65536, 48, cuda=False) == 4, version
