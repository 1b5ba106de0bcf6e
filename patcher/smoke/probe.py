"""`probe.py CASE [BUDGET]`: runs beside a vLLM, in its image or environment, without our code.

One MLA model of two layers, made of a config only, with dummy weights in the form that the case
names; a short prompt, which is read in one piece; a long one in chunks, so that the second chunk
has context and `_compute_prefill_context` must run. No checkpoint, no tokenizer, no network.
BUDGET is how many tokens are read at a time.

What it finds out goes to stdout, a line `MARK {json}` as soon as it is known: a process that dies
has said how far it came. `patcher.smoke.cases` reads the keys.
"""

from __future__ import annotations

import functools
import json
import os
import random
import sys
import tempfile
import time
import traceback
import zlib
from pathlib import Path
from typing import Any

MARK = "VLLM-PATCHER-PROBE "

# Tokens. A backend sends chunks up to a threshold down its decode path (FLASH_ATTN_MLA 512): the
# second chunk has to be longer, and 2000 in chunks of 1024 leaves 976.
SHORT, LONG, BUDGET, GENERATED = 100, 2000, 1024, 8

VOCABULARY = 1024

ENVIRONMENT = {
    # The engine in this process: its traceback is ours to read, and nothing outlives us.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_HOST_IP": "127.0.0.1",
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    # Neither is what is looked at here, and each may be missing or compile for minutes.
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
    "VLLM_USE_DEEP_GEMM": "0",
    # In GB; where there is no GPU.
    "VLLM_CPU_KVCACHE_SPACE": "1",
}


def tell(**said: Any) -> None:
    """Say what is known by now."""
    print(MARK + json.dumps(said), flush=True)


def _group(bits: int, strategy: str, **more: Any) -> dict[str, Any]:
    return {"num_bits": bits, "type": "int", "symmetric": True, "strategy": strategy, **more}


def _compressed(form: str, weights: dict[str, Any], inputs: Any) -> dict[str, Any]:
    """A compressed-tensors config; routed experts stay as they are, as in GLM-4.7-Flash-AWQ."""
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs}
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "quantization_status": "compressed",
        "ignore": ["lm_head", "re:.*mlp\\.experts.*"],
        "config_groups": {"group_0": group},
    }


def quantization(case: str) -> dict[str, Any] | None:
    """The `quantization_config` of a case, as such a checkpoint states it."""
    if case in ("w4a16", "glm"):
        weights = _group(4, "group", group_size=128, dynamic=False)
        return _compressed("pack-quantized", weights, None)
    if case == "int8":
        weights = _group(8, "channel", dynamic=False)
        return _compressed("int-quantized", weights, _group(8, "token", dynamic=True))
    if case == "gptq":
        kinds = ("q_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj")
        quantized = [[f"self_attn.{kind}" for kind in kinds]]
        return {
            "quant_method": "gptq",
            "bits": 4,
            "group_size": 128,
            "desc_act": False,
            "sym": True,
            "lm_head": False,
            "modules_in_block_to_quantize": quantized,
        }
    if case == "awq":
        return {
            "quant_method": "awq",
            "bits": 4,
            "group_size": 128,
            "zero_point": True,
            "version": "gemm",
        }
    return None


def model_config(case: str) -> dict[str, Any]:
    """A model's config.json. The head sizes are DeepSeek-V3's; in `glm` GLM-4.7-Flash's own."""
    glm = case == "glm"
    # Experts where the config can leave them alone: their 4-bit kernels compile for a minute.
    dense = case in ("gptq", "awq", "int8", "fp8-marlin")
    config: dict[str, Any] = {
        "architectures": ["Glm4MoeLiteForCausalLM" if glm else "DeepseekV3ForCausalLM"],
        "model_type": "glm4_moe_lite" if glm else "deepseek_v3",
        "vocab_size": VOCABULARY,
        "hidden_size": 512,
        "intermediate_size": 1024,
        "moe_intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "n_shared_experts": 1,
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "routed_scaling_factor": 1.0,
        "norm_topk_prob": True,
        "first_k_dense_replace": 2 if dense else 1,
        "moe_layer_freq": 1,
        "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
        "kv_lora_rank": 512,
        "q_lora_rank": 768 if glm else None,
        "qk_rope_head_dim": 64,
        "qk_nope_head_dim": 192 if glm else 128,
        "v_head_dim": 256 if glm else 128,
        "hidden_act": "silu",
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": False,
        "use_cache": True,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": None,
        "dtype": "bfloat16",
        "num_nextn_predict_layers": 0,
    }
    stated = quantization(case)
    return {**config, "quantization_config": stated} if stated else config


def watch_context() -> None:
    """Tell each time that the patched file's prefill with context is entered, and with what weight.

    A backend that has a method of its own is not watched: that is other code.
    """
    from vllm.model_executor.layers.attention import mla_attention

    reached: list[str] = []

    def watched(method: Any) -> Any:
        @functools.wraps(method)
        def noting(self: Any, *args: Any, **kwargs: Any) -> Any:
            weight = getattr(self.kv_b_proj, "weight", None)
            state = "absent" if weight is None else str(weight.dtype).removeprefix("torch.")
            reached.append(state)
            tell(weight=state, reads=len(reached))
            return method(self, *args, **kwargs)

        return noting

    for owner in vars(mla_attention).values():
        for name in ("_compute_prefill_context", "_context_parallel_compute_prefill_context"):
            if isinstance(owner, type) and name in vars(owner):
                setattr(owner, name, watched(vars(owner)[name]))


def seed_weights() -> None:
    """Let the dummy loader leave weights behind that matter: its own are 1e-3 and below.

    With those a token follows from the one before it, whatever attention makes of the rest.
    """
    from vllm.model_executor.model_loader.dummy_loader import DummyModelLoader

    loading = DummyModelLoader.load_weights

    def load(self: Any, model: Any, *args: Any, **kwargs: Any) -> None:
        loading(self, model, *args, **kwargs)
        for name, layer in model.named_modules():
            _fill(name, dict(layer.named_parameters(recurse=False)))

    DummyModelLoader.load_weights = load


def _fill(name: str, parameters: dict[str, Any]) -> None:
    """The weights of one layer, by its name: the same on every machine, of a usual size."""
    import torch

    chosen = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    whole = parameters.get("weight")
    is_int8 = whole is not None and whole.dtype == torch.int8
    packed = {"weight_packed", "qweight"} & parameters.keys()
    for kind, parameter in parameters.items():
        shape, made = tuple(parameter.shape), None
        if kind in packed:
            made = torch.randint(-(2**31), 2**31, shape, generator=chosen)
        elif kind == "qzeros":
            made = torch.full(shape, 0x88888888 - 2**32)
        elif kind in ("weight_scale", "scales") and (packed or is_int8):
            made = torch.rand(shape, generator=chosen) * 0.01 + 0.005
            made = made / 16 if is_int8 else made
        elif kind == "weight" and is_int8:
            made = torch.randint(-127, 128, shape, generator=chosen)
        elif kind == "weight" and len(shape) == 1:
            made = torch.ones(shape)
        elif parameter.dtype in (torch.bfloat16, torch.float32) and len(shape) > 1:
            size = 1.0 if "embed" in name else 0.05
            made = torch.randn(shape, generator=chosen) * size
        if made is not None:
            parameter.data.copy_(made)


def open_engine(case: str, budget: int, folder: str) -> Any:
    """The engine, on a model that is made of a config only."""
    import torch
    from vllm import LLM

    Path(folder, "config.json").write_text(json.dumps(model_config(case)))
    more: dict[str, Any] = {"quantization": "fp8"} if case == "fp8-marlin" else {}
    if torch.cuda.is_available():
        more["kv_cache_memory_bytes"] = 256 << 20  # else it is measured, which takes seconds
    return LLM(
        model=folder,
        load_format="dummy",
        skip_tokenizer_init=True,
        enforce_eager=True,
        max_model_len=4096,
        max_num_batched_tokens=budget,
        max_num_seqs=8,
        enable_chunked_prefill=True,
        enable_prefix_caching=False,
        gpu_memory_utilization=0.1,
        seed=0,
        **more,
    )


def generate(engine: Any, length: int) -> list[int]:
    """The greedy tokens after a prompt of that many tokens, the same on every machine."""
    from vllm import SamplingParams

    chosen = random.Random(length)  # noqa: S311  # nosec B311
    prompt = [chosen.randrange(2, VOCABULARY) for _ in range(length)]
    asked = SamplingParams(temperature=0, max_tokens=GENERATED, ignore_eos=True, detokenize=False)
    [answer] = engine.generate([{"prompt_token_ids": prompt}], asked, use_tqdm=False)
    return list(answer.outputs[0].token_ids)


def device_of() -> str | None:
    """What the engine would run on; None for nothing that it can."""
    import torch
    from vllm.platforms import current_platform

    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return "CPU" if current_platform.is_cpu() else None


def run(case: str, budget: int, folder: str) -> None:
    """One case, from the import to the last token."""
    try:
        import torch
        import vllm
    except ImportError as error:
        tell(refused=f"it has no vLLM that can be imported: {error}")
        return
    tell(
        vllm=vllm.__version__,
        torch=str(torch.__version__),
        place=os.path.realpath(vllm.__path__[0]),
    )
    device = device_of()
    if device is None:
        tell(refused="PyTorch sees no GPU, and this vLLM was not built for a CPU")
        return
    tell(device=device, stage="loading the model")
    watch_context()
    seed_weights()
    engine = open_engine(case, budget, folder)
    tell(stage="a short prompt")
    tell(short=generate(engine, SHORT), stage="a long prompt, read in chunks")
    tokens = generate(engine, LONG)
    tell(long=tokens, stage="done")


def main() -> None:
    """Run the case that the command line names, and end at once: an engine's threads may hang."""
    case, *budget = sys.argv[1:]
    began = time.monotonic()
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if case == "fp8-marlin":
        os.environ["VLLM_TEST_FORCE_FP8_MARLIN"] = "1"
    try:
        with tempfile.TemporaryDirectory() as folder:
            run(case, int(budget[0]) if budget else BUDGET, folder)
    except BaseException as error:
        tell(error=f"{type(error).__name__}: {error}"[:2000], traceback=traceback.format_exc())
    tell(seconds=round(time.monotonic() - began, 1))
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
