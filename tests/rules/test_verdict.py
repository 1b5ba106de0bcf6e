"""Verdicts on a source: what cannot be read, and what the numbers in one say."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from patcher.errors import FileAbsent, PatcherError, Unreadable
from patcher.rules.patch import Patch
from patcher.rules.replace import Change, Replace
from patcher.rules.verdict import Status, judge

ONE, TWO = "vllm/one.py", "vllm/two.py"
RULE = Replace((Change(ONE, "f", "x", "y", times=2),))
PATCH = Patch("p", 1, "t", "w", (ONE, TWO), RULE, (), (">=0.20,<0.24",))
NEEDED = b"def f():\n    return x + x\n"


@dataclass(frozen=True)
class Held:
    """A source of these files and errors."""

    files: dict[str, bytes | PatcherError] = field(default_factory=dict)
    stated: str | PatcherError | None = "0.23.0"
    label: str = "it"

    def read(self, target: str) -> bytes:
        found = self.files.get(target, FileAbsent(f"it holds no {target}", next_step="-"))
        if isinstance(found, PatcherError):
            raise found
        return found

    def version(self) -> str | None:
        if isinstance(self.stated, PatcherError):
            raise self.stated
        return self.stated


AWAY = Unreadable("the registry is away", next_step="Wait.")


@pytest.mark.parametrize(
    ("one", "status", "reason"),
    [
        (NEEDED, Status.NEEDED, None),
        (NEEDED.replace(b"x", b"y"), Status.CLEAN, None),
        (b"def g(): pass\n", Status.ABSENT, f"there is no f in {ONE}"),
        (b"def f(:\n", Status.UNKNOWN, "it is not Python source"),
        (b"#" * (1 << 20) + b"\n", Status.UNKNOWN, "1048577 bytes, which no file of vLLM has"),
        (AWAY, Status.UNKNOWN, "the registry is away"),
    ],
)
def test_a_source_is_judged_by_its_content(
    one: bytes | PatcherError, status: Status, reason: str | None
) -> None:
    verdict = judge(PATCH, Held({ONE: one}))
    assert verdict.status is status
    assert reason is None or reason in str(verdict.reason)
    # What could not be read may say another thing tomorrow.
    assert verdict.by_content == (one is not AWAY)
    assert len(verdict.files) == (one is not AWAY)


def test_the_places_are_counted_in_the_rules_words() -> None:
    verdict = judge(PATCH, Held({ONE: NEEDED}))
    assert (verdict.needed, verdict.clean) == (2, 0)
    assert verdict.counts == "2 to be replaced, 0 replaced"


@pytest.mark.parametrize(
    ("stated", "outside"),
    [("0.23.0", False), ("0.24.0", True), (None, False), (AWAY, False), ("0.1.dev1", False)],
)
def test_outside_the_claim_an_unknown_says_nothing(
    stated: str | PatcherError | None, outside: bool
) -> None:
    """Where no version is stated, the content alone decides."""
    verdict = judge(PATCH, Held({ONE: b"def f(:\n"}, stated))
    assert (verdict.outside, verdict.without_claim) == (outside, outside)


def test_a_rule_that_cannot_reach_what_it_needs_is_open() -> None:
    @dataclass(frozen=True)
    class Away:
        words = RULE.words

        def find(self, *_: object) -> object:
            raise AWAY

        rewrite = prove = find

    patch = Patch("p", 1, "t", "w", (ONE,), Away(), (), (">=0.20",))  # type: ignore[arg-type]
    verdict = judge(patch, Held({ONE: NEEDED}))
    assert (verdict.status, verdict.reason) == (Status.UNKNOWN, "the registry is away")
    assert not verdict.by_content


def test_a_rules_words_stand_for_one_and_for_many() -> None:
    words = RULE.words
    assert [words.state(needed) for needed in (True, False)] == ["to be replaced", "replaced"]
    assert [words.number(count) for count in (1, 2)] == ["1 place", "2 places"]
