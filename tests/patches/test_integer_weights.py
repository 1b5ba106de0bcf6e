"""kv-b-proj-integer-weights: which cast MLA's prefill makes, in every release, for every weight."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from patcher.rules.verdict import Status, judge_files
from tests.patches.wheels import ReleaseFile, files_of, patch_named, patched, run
from tests.rules.guard.test_releases import MEASURED

# In one worker, they patch each file once.
pytestmark = [pytest.mark.no_cover, pytest.mark.xdist_group("patches")]

NAME, GUARD = "kv-b-proj-integer-weights", "kv-b-proj-dtype"
TARGET = "vllm/model_executor/layers/attention/mla_attention.py"
CASTING = {counts: versions for counts, versions in MEASURED.items() if "0.16.0" not in versions}
IN_PARALLEL = {*MEASURED[1, 3], *MEASURED[0, 1]}

MODEL, FP8 = "bfloat16", "float8_e4m3fn"

# Weight (None: there is none) -> the cast without and with FP8 prefill (None: as it is).
TABLE = {
    None: (MODEL, MODEL),
    "bfloat16": ("bfloat16", "bfloat16"),
    "float16": ("float16", "float16"),
    FP8: (None, FP8),
    "uint8": (None, None),
    "int8": (MODEL, MODEL),  # ours; 0.28.0 has int8 in both
    "int32": (MODEL, MODEL),
}
AS_0_28 = TABLE | {"int8": ("int8", "int8")}


class Activation:
    """A tensor of which only the casts matter."""

    shape = (4, 576)

    def __init__(self) -> None:
        self.casts: list[str] = []

    def __getitem__(self, _: object) -> Activation:
        return self

    def to(self, dtype: str) -> Activation:
        self.casts.append(dtype)
        return self

    def unsqueeze(self, _: int) -> Activation:
        return self

    def split(self, *_: object, **__: object) -> tuple[Activation, Activation]:
        return self, self

    def copy_(self, _: object) -> None:
        """What the other ranks have."""


# What the cast does not depend on. One will do for all: each costs a class of its own.
ANY = MagicMock()
CONTEXT = MagicMock(
    seq_tot=[1], chunks=[MagicMock(num_context_tokens=1, num_local_context_tokens=1)]
)


class Reached(Exception):
    """The layer was called: the cast has been made by now."""


class Layer:
    params_dtype = MODEL

    def __init__(self, weight: str | None) -> None:
        if weight is not None:
            self.weight = SimpleNamespace(dtype=weight)

    def __call__(self, _: object) -> Any:
        raise Reached


def owner_of(data: bytes) -> str:
    return "MLACommonBaseImpl" if b"class MLACommonBaseImpl(" in data else "MLACommonImpl"


def cast(data: bytes, weight: str | None, fp8_prefill: bool, *, parallel: bool = False) -> Any:
    """What the activation is cast to before the layer gets it; None where it is left alone."""
    activation = Activation()
    world: dict[str, Any] = {
        "torch": SimpleNamespace(uint8="uint8", int8="int8", int32="int32"),
        "current_platform": SimpleNamespace(fp8_dtype=lambda: FP8, is_cpu=lambda: False),
        "ops": ANY,
        "is_quantized_kv_cache": lambda _: False,
        "get_dcp_group": ANY,
        "cast": lambda _, value: value,
        "MLADCPManager": None,
        "reorg_kvcache": lambda *_, **__: (activation, activation),
    }
    if b"def _get_kv_b_proj_input_dtype(" in data:
        helper = run(data, "_get_kv_b_proj_input_dtype", **world)
        world["_get_kv_b_proj_input_dtype"] = helper
    CONTEXT.workspace = activation
    prefill = MagicMock(chunked_context=CONTEXT, q_data_type=FP8 if fp8_prefill else MODEL)
    this = SimpleNamespace(
        kv_b_proj=Layer(weight), kv_lora_rank=512, qk_rope_head_dim=64, kv_cache_dtype="auto"
    )
    name = "_context_parallel_compute_prefill_context" if parallel else "_compute_prefill_context"
    compute = run(data, f"{owner_of(data)}.{name}", **world)
    more = {"dcp_world_size": 1} if parallel else {}
    with pytest.raises(Reached):
        compute(this, ANY, ANY, MagicMock(prefill=prefill), None, **more)
    assert len(activation.casts) <= 1
    return activation.casts[0] if activation.casts else None


def table(data: bytes, *, parallel: bool = False) -> dict[str | None, Any]:
    return {
        weight: tuple(cast(data, weight, fp8, parallel=parallel) for fp8 in (False, True))
        for weight in TABLE
    }


@pytest.fixture(autouse=True)
def _modelopt(monkeypatch: pytest.MonkeyPatch) -> None:
    """What 0.29 and later import for an FP8 weight: methods that are not this layer's."""
    layers = "vllm.model_executor.layers.quantization"
    for name, names in {
        "modelopt": ("ModelOptFp8PbWoLinearMethod", "ModelOptLinearMethod"),
        "utils.quant_utils": ("kFp8Static128BlockSym",),
    }.items():
        module = ModuleType(f"{layers}.{name}")
        for each in names:
            setattr(module, each, type(each, (), {}))
        monkeypatch.setitem(sys.modules, f"{layers}.{name}", module)


def test_the_table_is_that_of_0_28_but_for_int8(release_file: ReleaseFile) -> None:
    data = release_file("0.28.0", TARGET)
    assert table(data) == AS_0_28
    assert table(data, parallel=True) == AS_0_28


@pytest.mark.parametrize("versions", CASTING.values(), ids=" ".join)
def test_an_integer_weight_keeps_the_models_type(
    release_file: ReleaseFile, versions: list[str]
) -> None:
    patch = patch_named(NAME, release_file)
    # Releases next to each other often have the same file.
    for data, version in {release_file(version): version for version in versions}.items():
        after = patched(patch, {TARGET: data})[TARGET]
        assert cast(data, "int8", fp8_prefill=False) == "int8", version
        assert table(after) == TABLE, version
        if version in IN_PARALLEL:
            assert cast(data, "int8", fp8_prefill=False, parallel=True) == "int8", version
            assert table(after, parallel=True) == TABLE, version


@pytest.mark.parametrize("version", ["0.17.0", "0.19.1", "0.23.0", "0.27.1", "0.33.0"])
def test_either_order_with_the_guard_gives_the_same_bytes(
    release_file: ReleaseFile, version: str
) -> None:
    patches = [patch_named(name, release_file) for name in (NAME, GUARD)]
    made = []
    for order in (patches, patches[::-1]):
        files = files_of(order[0], version, release_file)
        for patch in order:
            files = {**files, **patched(patch, files)}
        made.append(files[TARGET])
        for patch in order:
            assert judge_files(patch, files, version).status is Status.CLEAN
    assert made[0] == made[1]
    assert made[0] is not None
    assert table(made[0]) == TABLE
