"""A KV transfer ends after its request, and the engine dies of an assertion."""

from __future__ import annotations

from patcher.rules.patch import Patch
from patcher.rules.replace import Change, Replace

_SCHEDULER = "vllm/v1/core/sched/scheduler.py"

PATCH = Patch(
    name="kv-transfer-gone",
    version=1,
    title="a KV transfer that ends after its request is passed over",
    why=(
        "A request that was aborted while its KV cache was being sent or received is freed; the "
        "connector reports the end of the transfer later, or the receiving and the sending one in "
        "the same step. The scheduler asserts that it knows the request: EngineCore dies, and with "
        "it every other request, on every data-parallel rank. Upstream holds that connectors must "
        "not report such ends (53079); until they do not, the engine lives."
    ),
    targets=(_SCHEDULER,),
    rule=Replace(
        (
            Change(
                _SCHEDULER,
                "Scheduler._update_from_kv_xfer_finished",
                old="assert req_id in self.requests",
                new="""\
                if req_id not in self.requests:
                    continue
                """,
                times=2,
            ),
        )
    ),
    upstream=(
        (43226, "issue: a transfer of a request that was freed"),
        (46240, "issue: both ends in one step"),
        (43265, "fix like this one, closed unmerged"),
        (48615, "fix like this one, closed unmerged"),
        (53079, "fix like this one, closed: to be mended in the connectors"),
        (56089, "fix that waits for both transfers, open in November 2026"),
    ),
    affected=(">=0.16.0",),
    valid=(),
    invalid=(),
)
