"""MLA's prefill takes the type that a weight is stored in for the one that its layer wants."""

from __future__ import annotations

from patcher.rules.patch import Example, Patch
from patcher.rules.replace import Change, Replace, Shape
from patcher.rules.several import FirstOf

_FILE = "vllm/model_executor/layers/attention/mla_attention.py"
_PREFILL = "_compute_prefill_context"
# Where each rank has a part of the context; it casts from 0.25.0 on.
_PARALLEL = "_context_parallel_compute_prefill_context"

_READ = "self.kv_b_proj.weight.dtype"
# As upstream writes it, and `kv-b-proj-dtype`.
_GUARDED = f'({_READ} if hasattr(self.kv_b_proj, "weight") else self.kv_b_proj.params_dtype)'


def _cast(name: str, read: str, packed: str = "") -> str:
    """A type, and a cast that is made unless the layer takes the activation as it is."""
    return f"""\
{name} = {_GUARDED}
if (use_fp8_prefill or {name} != current_platform.fp8_dtype()){packed}:
    kv_c_normed = kv_c_normed.to({read})
"""


def _inline(read: str) -> str:
    """The same without a name for the type, as 0.17 has it."""
    return f"""\
if use_fp8_prefill or {read} != current_platform.fp8_dtype():
    kv_c_normed = kv_c_normed.to({read})
"""


def _cured(name: str) -> str:
    """What 0.28.0 does, and with int8 what it does with int32."""
    return f"""\
{name} = (
    self.kv_b_proj.weight.dtype
    if hasattr(self.kv_b_proj, "weight")
    else self.kv_b_proj.params_dtype
)
# Integers are how the weight is stored: the layer takes the model's type.
if {name} in (torch.int8, torch.int32):
    {name} = self.kv_b_proj.params_dtype
if (
    use_fp8_prefill or {name} != current_platform.fp8_dtype()
) and {name} != torch.uint8:
    kv_c_normed = kv_c_normed.to({name})
"""


_NAME = "_kv_b_proj_w_dtype"
_OWN = "kv_b_proj_w_dtype"
_UINT8 = f" and {_NAME} != torch.uint8"


def _form(old: str, parallel_of: str | None = None) -> Replace:
    """The cast `old`; where `parallel_of` names the class, the one with context parallelism too."""
    owner = parallel_of or "MLACommonImpl"
    alone = Change(_FILE, f"{owner}.{_PREFILL}", old=old, new=_cured(_NAME))
    other = _cast(_OWN, _OWN, f" and {_OWN} != torch.uint8")
    parallel = Change(_FILE, f"{owner}.{_PARALLEL}", old=other, new=_cured(_OWN))
    return Replace((alone, parallel) if parallel_of else (alone,))


PATCH = Patch(
    name="kv-b-proj-integer-weights",
    version=1,
    title="keep the model's type where kv_b_proj.weight holds integers",
    why=(
        "MLA's prefill with context casts its activation to the type of kv_b_proj.weight. Where "
        "the weight is stored in integers (W8A8 int8; int32 after Marlin's repacking of FP8) the "
        "layer wants the model's type and quantizes by itself: the kernel refuses what it gets, "
        "and the engine dies on the first long prompt or prefix-cache hit. 0.28.0 fixed int32, "
        "and no release int8. uint8 (NVFP4) is left as 0.28.0 has it: no cast."
    ),
    targets=(_FILE,),
    rule=FirstOf(
        (
            Replace(
                (
                    Change(
                        _FILE,
                        "_get_kv_b_proj_input_dtype",
                        old="weight_dtype == torch.int32",
                        new="weight_dtype in (torch.int8, torch.int32)",
                    ),
                ),
                # 0.15 and 0.16 cast nothing.
                instead=(
                    Shape(
                        _FILE,
                        f"MLACommonImpl.{_PREFILL}",
                        "kv_c_normed = workspace[:toks][..., : self.kv_lora_rank]\n"
                        "k_pe = workspace[:toks][..., self.kv_lora_rank :].unsqueeze(1)\n",
                    ),
                ),
            ),
            # Each as it was released, then as `kv-b-proj-dtype` leaves it. 0.26 and 0.27; 0.25,
            # before 0.20 to 0.24, whose one place it has too; 0.18 and 0.19; 0.17.
            _form(_cast(_NAME, _READ, _UINT8), "MLACommonBaseImpl"),
            _form(_cast(_NAME, _GUARDED, _UINT8), "MLACommonBaseImpl"),
            _form(_cast(_NAME, _READ, _UINT8), "MLACommonImpl"),
            _form(_cast(_NAME, _GUARDED, _UINT8), "MLACommonImpl"),
            _form(_cast(_NAME, _READ, _UINT8)),
            _form(_cast(_NAME, _GUARDED, _UINT8)),
            _form(_cast(_NAME, _NAME)),
            _form(_inline(_READ)),
            _form(_inline(_GUARDED)),
        )
    ),
    upstream=(
        (37245, "fix for int8, open in November 2026"),
        (38658, "issue: int32 after Marlin's repacking"),
        (47522, "issue: the same on an A100"),
        (38771, "fix for int32, in 0.28.0"),
    ),
    affected=(">=0.17.0",),
    valid=(
        """\
def _get_kv_b_proj_input_dtype(kv_b_proj, use_fp8_prefill):
    weight_dtype = kv_b_proj.weight.dtype
    if weight_dtype in (torch.int8, torch.int32):
        return kv_b_proj.params_dtype
    return weight_dtype
""",
    ),
    invalid=(
        Example(
            before="""\
def _get_kv_b_proj_input_dtype(kv_b_proj, use_fp8_prefill):
    weight_dtype = kv_b_proj.weight.dtype
    if weight_dtype == torch.int32:
        return kv_b_proj.params_dtype
    return weight_dtype
""",
            after="""\
def _get_kv_b_proj_input_dtype(kv_b_proj, use_fp8_prefill):
    weight_dtype = kv_b_proj.weight.dtype
    if weight_dtype in (torch.int8, torch.int32):
        return kv_b_proj.params_dtype
    return weight_dtype
""",
        ),
    ),
    smoke=("int8", "fp8-marlin"),
)
