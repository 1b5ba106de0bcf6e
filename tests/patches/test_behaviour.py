"""Functions out of real wheels, made to run with stubs: wrong unpatched, right patched."""

from __future__ import annotations

import itertools
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from tests.patches.wheels import ReleaseFile, files_of, patch_named, patched, run

# In one worker, they patch each file once.
pytestmark = [pytest.mark.no_cover, pytest.mark.xdist_group("patches")]

LOGGER = logging.getLogger(__name__)


def both(name: str, version: str, target: str, release_file: ReleaseFile) -> tuple[bytes, bytes]:
    """A target's bytes in a release, before and after the patch."""
    patch = patch_named(name, release_file)
    files = files_of(patch, version, release_file)
    before = files[target]
    assert before is not None
    return before, patched(patch, files)[target]


# ---- gemma4-mtp-embeddings


class Tensor:
    def __init__(self, width: int) -> None:
        self.shape = (10, width)

    def cpu(self) -> Tensor:
        return self


def shared_with(data: bytes, draft: dict[str, Any], width: int) -> bool:
    """Whether a draft of its own width takes over the embeddings of a target of 2048."""
    torch = SimpleNamespace(Tensor=Tensor, equal=lambda one, other: one.shape == other.shape)
    share = run(
        data,
        "SpecDecodeBaseProposer._maybe_share_embeddings",
        torch=torch,
        logger=LOGGER,
        get_pp_group=lambda: SimpleNamespace(world_size=1),
    )
    target = SimpleNamespace(weight=Tensor(2048))
    inner = SimpleNamespace(embed_tokens=SimpleNamespace(weight=Tensor(width)))
    proposer = SimpleNamespace(model=SimpleNamespace(model=inner, **draft))
    share(proposer, SimpleNamespace(model=SimpleNamespace(embed_tokens=target)))
    return inner.embed_tokens is target


@pytest.mark.parametrize("version", ["0.25.0", "0.25.1", "0.26.0"])
def test_gemma4s_draft_takes_embeddings_of_another_width(
    release_file: ReleaseFile, version: str
) -> None:
    target = "vllm/v1/spec_decode/llm_base_proposer.py"
    before, after = both("gemma4-mtp-embeddings", version, target, release_file)
    assert (shared_with(before, {}, 1536), shared_with(after, {}, 1536)) == (False, True)
    # An EAGLE draft still takes them only where they are as wide.
    eagle = {"has_own_embed_tokens": False}
    for data in (before, after):
        assert (shared_with(data, eagle, 1536), shared_with(data, eagle, 2048)) == (False, True)


# ---- structured-output-boundary

MARKER = 99


class Reasoner:
    @staticmethod
    def is_reasoning_end_streaming(_: object, delta: Any) -> bool:
        return MARKER in list(delta)


def advances(data: bytes, tokens: list[int], new: list[int], placeholders: int) -> Any:
    """What a request becomes whose step gave `new`, with placeholders left of rejected drafts."""
    world = {"itertools": itertools, "TYPE_CHECKING": False, "StructuredOutputOptions": None}
    find = run(data, "StructuredOutputManager._find_reasoning_end_index", **world)
    advance = run(data, "StructuredOutputManager.should_advance", **world)
    structured = SimpleNamespace(reasoning_ended=False, structured_output_key=("json", ""))
    request = SimpleNamespace(
        use_structured_output=True,
        structured_output_request=structured,
        num_computed_tokens=len(tokens),
        num_output_placeholders=placeholders,
        all_token_ids=tokens,
    )
    manager = SimpleNamespace(
        _get_reasoner=lambda _: Reasoner(),
        _find_reasoning_end_index=find,
        enable_in_reasoning=False,
        vllm_config=SimpleNamespace(speculative_config=None),
    )
    takes = "new_token_ids" in advance.__code__.co_varnames
    advance(manager, request, **({"new_token_ids": new} if takes else {}))
    return structured.reasoning_ended


@pytest.mark.parametrize("version", ["0.25.0", "0.26.0"])
def test_the_end_of_reasoning_is_seen_when_drafts_were_rejected(
    release_file: ReleaseFile, version: str
) -> None:
    target = "vllm/v1/structured_output/__init__.py"
    before, after = both("structured-output-boundary", version, target, release_file)
    step = [1, 2, 3, MARKER, 5], [MARKER, 5], 1
    assert (advances(before, *step), advances(after, *step)) == (False, True)
    none = [1, 2, 3, 4, 5], [4, 5], 2
    assert (advances(before, *none), advances(after, *none)) == (False, False)


@pytest.mark.parametrize("version", ["0.25.0", "0.26.0"])
def test_the_scheduler_hands_the_tokens_of_the_step(
    release_file: ReleaseFile, version: str
) -> None:
    target = "vllm/v1/core/sched/scheduler.py"
    before, after = both("structured-output-boundary", version, target, release_file)
    call = b"should_advance(request, new_token_ids=new_token_ids)"
    assert (before.count(call), after.count(call)) == (0, 1)


# ---- kv-transfer-gone


def ends(data: bytes, known: list[str], received: list[str], sent: list[str]) -> list[str]:
    """The requests whose blocks a scheduler frees when transfers end."""
    status = SimpleNamespace(
        WAITING_FOR_REMOTE_KVS="waiting", is_finished=lambda status: status == "finished"
    )
    update = run(
        data,
        "Scheduler._update_from_kv_xfer_finished",
        RequestStatus=status,
        logger=LOGGER,
        KV_FETCH_COMPLETED_WAITING="",
    )
    freed: list[str] = []
    requests = {each: SimpleNamespace(id=each, status="finished") for each in known}

    def free(request: Any) -> None:
        freed.append(request.id)
        del requests[request.id]

    scheduler = SimpleNamespace(
        connector=None,
        requests=requests,
        finished_recving_kv_req_ids=set(),
        _free_blocks=free,
    )
    update(scheduler, SimpleNamespace(finished_recving=received, finished_sending=sent))
    return freed


@pytest.mark.parametrize("version", ["0.16.0", "0.20.0", "0.26.0", "0.28.0", "0.33.0"])
def test_a_transfer_of_a_request_that_is_gone_does_not_end_the_engine(
    release_file: ReleaseFile, version: str
) -> None:
    target = "vllm/v1/core/sched/scheduler.py"
    before, after = both("kv-transfer-gone", version, target, release_file)
    for received, sent in (["gone"], []), ([], ["gone"]), (["a"], ["a"]):
        with pytest.raises(AssertionError):
            ends(before, ["a", "b"], received, sent)
    assert ends(after, ["a", "b"], ["gone"], ["b"]) == ["b"]
    assert ends(after, ["a", "b"], ["a"], ["a", "gone"]) == ["a"]
    for data in (before, after):
        assert ends(data, ["a", "b"], ["a"], ["b"]) == ["a", "b"]


# ---- the two of top-k

INDEXER = "vllm/model_executor/layers/sparse_attn_indexer.py"
DISPATCHER = "vllm/model_executor/layers/indexer_topk.py"


class Platform:
    def __init__(self, capability: int) -> None:
        self.capability = capability

    def is_cuda(self) -> bool:
        return True

    def has_device_capability(self, least: int) -> bool:
        return self.capability >= least

    def is_device_capability_family(self, family: int) -> bool:
        return self.capability // 10 == family // 10


def chosen(data: bytes, name: str, capability: int, memory: int) -> bool:
    """What `name = ...` in sparse_attn_indexer comes to on a device."""
    import ast

    nodes = list(ast.walk(ast.parse(data)))
    assigned = [each for each in nodes if isinstance(each, ast.Assign)]
    values = {ast.unparse(each.targets[0]): ast.unparse(each.value) for each in assigned}
    # Before 0.24.0 the condition has no name.
    tests = (ast.unparse(each.test) for each in nodes if isinstance(each, ast.If))
    unnamed = (each for each in tests if "current_platform.is_cuda() and topk_tokens in" in each)
    names = {
        "current_platform": Platform(capability),
        "topk_tokens": 2048,
        "num_rows": 1,
        "logits": SimpleNamespace(stride=lambda _: 4, device="cuda:0"),
        "torch": torch_with(memory),
    }
    if "allowed_topk" in values:  # 0.20.1
        names["allowed_topk"] = eval(values["allowed_topk"], names)
    return bool(eval(values.get(name) or next(unnamed), names))


def torch_with(memory: int) -> Any:
    properties = SimpleNamespace(shared_memory_per_block_optin=memory)
    return SimpleNamespace(cuda=SimpleNamespace(get_device_properties=lambda _: properties))


def test_sm12x_does_not_take_the_cluster_kernel(release_file: ReleaseFile) -> None:
    before, after = both("cooperative-topk-sm12x", "0.24.0", INDEXER, release_file)
    kernel = "use_cooperative_topk"
    for capability in (120, 121):
        assert chosen(before, kernel, capability, 101376) is True
        assert chosen(after, kernel, capability, 101376) is False
    for capability in (80, 90, 100, 103):
        assert chosen(before, kernel, capability, 232448) is chosen(
            after, kernel, capability, 232448
        )


@pytest.mark.parametrize("version", ["0.20.0", "0.20.1", "0.20.2", "0.24.0", "0.29.0"])
def test_a_device_of_little_shared_memory_takes_the_row_wise_kernel(
    release_file: ReleaseFile, version: str
) -> None:
    before, after = both("persistent-topk-memory", version, INDEXER, release_file)
    kernel = "use_persistent_topk"
    assert (chosen(before, kernel, 121, 101376), chosen(after, kernel, 121, 101376)) == (
        True,
        False,
    )
    assert (chosen(before, kernel, 100, 232448), chosen(after, kernel, 100, 232448)) == (True, True)


@pytest.mark.parametrize("version", ["0.30.0", "0.33.0"])
def test_the_dispatcher_does_so_too(release_file: ReleaseFile, version: str) -> None:
    def resolved(data: bytes, memory: int) -> str:
        resolve = run(data, "SparseIndexerTopk._resolve_auto", torch=torch_with(memory))
        own = SimpleNamespace(_is_cuda=True, _cooperative_constraints=lambda *_: ["no"])
        return str(resolve(own, SimpleNamespace(device="cuda:0"), 2048, 64))

    before, after = both("persistent-topk-memory", version, DISPATCHER, release_file)
    assert (resolved(before, 101376), resolved(after, 101376)) == ("persistent", "per_row")
    assert (resolved(before, 232448), resolved(after, 232448)) == ("persistent", "persistent")
