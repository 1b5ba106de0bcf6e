"""With drafts rejected, the grammar looks past the token that ends the reasoning."""

from __future__ import annotations

from patcher.rules.backport.rule import Backport
from patcher.rules.backport.scope import Scope
from patcher.rules.patch import Patch
from patcher.rules.replace import Change, Replace
from patcher.rules.several import Together

_MANAGER = "vllm/v1/structured_output/__init__.py"
_SCHEDULER = "vllm/v1/core/sched/scheduler.py"

PATCH = Patch(
    name="structured-output-boundary",
    version=1,
    title="advance the grammar from the tokens of this step",
    why=(
        "Whether the reasoning ended in this step is looked for in a window that is told from "
        "placeholders. With async scheduling and speculative decoding some drafts are rejected, "
        "the window starts behind the end marker, and the answer is never held to the grammar."
    ),
    targets=(_MANAGER, _SCHEDULER),
    # Between 0.26.0 and 0.27.0 the scheduler's function changed in six places, one of them this
    # fix's: its one call is stated here.
    rule=Together(
        (
            Backport(
                before="0.26.0",
                after="0.27.0",
                scopes=(
                    Scope(
                        _MANAGER,
                        "StructuredOutputManager.should_advance",
                        before="bc6447d591eb130b87ee9c81a5a36bec5f673c109c64adbec1e4830b4078d7f2",
                        after="381a05bd86f7974b2b38d63a8d440883d66ff8c5fa72217c338896d3318ec4e6",
                    ),
                ),
            ),
            Replace(
                (
                    Change(
                        _SCHEDULER,
                        "Scheduler.update_from_output",
                        old="self.structured_output_manager.should_advance(request)",
                        new=(
                            "self.structured_output_manager.should_advance("
                            "request, new_token_ids=new_token_ids)"
                        ),
                    ),
                )
            ),
        )
    ),
    upstream=(
        (44993, "fix, merged 2026-07-23, in 0.27.0"),
        (43388, "issue: the marker is missed when drafts are rejected"),
    ),
    affected=(">=0.25.0,<0.27.0",),
    valid=(),
    invalid=(),
)
