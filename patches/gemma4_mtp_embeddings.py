"""Gemma 4's MTP draft takes the target's embeddings, and a check of widths refuses them."""

from __future__ import annotations

from patcher.rules.backport.rule import Backport
from patcher.rules.backport.scope import Scope
from patcher.rules.patch import Patch

_PROPOSER = "vllm/v1/spec_decode/llm_base_proposer.py"

PATCH = Patch(
    name="gemma4-mtp-embeddings",
    version=1,
    title="share embeddings with MTP drafts of another width",
    why=(
        "A draft model takes the target's embeddings only where both are equally wide. That is "
        "right for EAGLE. Gemma 4's MTP draft projects embeddings of the target's width itself, "
        "so it keeps embeddings that were never loaded, and drafts nonsense or fails on a shape."
    ),
    targets=(_PROPOSER,),
    rule=Backport(
        before="0.26.0",
        after="0.27.0",
        scopes=(
            Scope(
                _PROPOSER,
                "SpecDecodeBaseProposer._maybe_share_embeddings",
                before="16f21437b706379eadc869ccf78e02e8367da022c30189fc26e77773706ac3c0",
                after="3e8783d9355defa1a4a0d6948baf6d4e427526d60c64092728db1da896d8c6bc",
            ),
        ),
    ),
    upstream=((47953, "fix, merged 2026-07-21, in 0.27.0"),),
    affected=(">=0.25.0,<0.27.0",),
    valid=(),
    invalid=(),
)
