"""Two changes to a vLLM for CPUs, made while it is imported; no file of it is written to.

1. Its CPU platform switches chunked prefill and prefix caching off for MLA, except where the
   processor has AMX. The context path works there all the same: that branch is passed over.
2. Its build for processors without AVX-512 has no 4-bit product. The same sum is then made by
   PyTorch from the same packed weights, slowly; on other machines nothing is put in its place.

Python runs this file at its start where its folder is in PYTHONPATH.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from typing import Any

_BRANCH = "and not amx_mla_or_dsv4_enabled\n        ):"
_NEVER = "and not amx_mla_or_dsv4_enabled\n            and False\n        ):"


class _Changed(importlib.machinery.SourceFileLoader):
    """Loads one of the two modules, changed."""

    def get_code(self, fullname: str) -> Any:
        """From the source: bytecode on disk is the unchanged module's."""
        source = self.get_data(self.path).decode()
        if fullname == "vllm.platforms.cpu":
            if source.count(_BRANCH) != 1:
                raise ImportError("vllm.platforms.cpu no longer has the branch to pass over")
            source = source.replace(_BRANCH, _NEVER)
        return compile(source, self.path, "exec", dont_inherit=True)

    def exec_module(self, module: Any) -> None:
        """Run it, and give PyTorch the product if vLLM's kernels came without."""
        super().exec_module(module)
        if module.__name__ == "vllm._custom_ops":
            _stand_in()


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        """The spec that Python would find, with our loader."""
        if fullname not in ("vllm.platforms.cpu", "vllm._custom_ops"):
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.origin is not None:
            spec.loader = _Changed(fullname, spec.origin)
        return spec


def _stand_in() -> None:
    import torch

    if hasattr(torch.ops._C, "cpu_gemm_wna16"):
        return
    library = torch.library.Library("_C", "FRAGMENT")
    library.define(
        "cpu_gemm_wna16(Tensor input, Tensor q_weight, Tensor(a2!) output, Tensor scales, "
        "Tensor? zeros, Tensor? bias, SymInt pack_factor, str isa_hint) -> ()"
    )
    library.impl("cpu_gemm_wna16", _product, "CPU")
    globals()["_kept"] = library  # it is undone when nobody holds it


def _product(
    given: Any, packed: Any, output: Any, scales: Any, zeros: Any, bias: Any, *_: Any
) -> None:
    """`output` = `given` times the weights, which lie in blocks of 16 outputs, 8 in an int32."""
    import torch

    inputs, shifts = given.shape[-1], torch.arange(0, 32, 4, dtype=torch.int32)
    nibbles = (packed.view(-1, inputs, 2, 1) >> shifts) & 0xF
    values = nibbles.reshape(-1, inputs, 16).permute(1, 0, 2).reshape(inputs, -1)
    offset: Any = 8
    if zeros is not None:
        offset = ((zeros.unsqueeze(-1) >> shifts) & 0xF).reshape(zeros.shape[0], -1)
        offset = offset.repeat_interleave(inputs // offset.shape[0], dim=0)
    scale = scales.float().repeat_interleave(inputs // scales.shape[0], dim=0)
    made = given.float() @ ((values - offset).float() * scale)
    output.copy_(made if bias is None else made + bias)


sys.meta_path.insert(0, _Finder())
