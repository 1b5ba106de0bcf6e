"""The verifier and the rewriter are held against execution, snippet by snippet."""

from __future__ import annotations

import ast
import contextlib

import pytest

from patcher.errors import NotFollowed
from patcher.rules.guard.proving.verify import verify
from patcher.syntax import tree_of

from .claims import RULE, assert_never_lenient, assert_rewrite_is_sound, is_clean
from .corpus import SNIPPETS, Snippet
from .oracle import Program, deaths_in

# Runs of a snippet, for each set of packed layers.
MOST = 1000

every_snippet = pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda snippet: snippet.name)


@every_snippet
def test_the_verifier_agrees_with_execution(snippet: Snippet) -> None:
    program = Program(snippet.source)
    runs = [list(program.runs(packed, MOST)) for packed in program.packings()]
    assert all(len(each) < MOST for each in runs), "not every path is taken"
    outcomes = [outcome for each in runs for _, outcome in each]
    assert not any(outcome.endless for outcome in outcomes)
    deaths = deaths_in(outcomes)
    assert_never_lenient(snippet.source, deaths)
    if deaths.possible:
        assert snippet.strict is None, f"it dies; there is nothing strict about that: {deaths}"
    elif snippet.strict is None:
        assert is_clean(snippet.source), "no run dies, and no note says that this is strict"
    else:
        assert not is_clean(snippet.source), f"seen as clean: drop the note {snippet.strict!r}"


@pytest.mark.no_cover
@every_snippet
def test_a_rewrite_mends_every_read_and_changes_nothing_else(snippet: Snippet) -> None:
    assert_rewrite_is_sound(snippet.source)


def test_snippets_are_told_apart_by_name() -> None:
    names = [snippet.name for snippet in SNIPPETS]
    assert len(names) == len(set(names))


def test_the_verifier_leaves_the_tree_as_it_is() -> None:
    """Other rules look at the same one."""
    for snippet in SNIPPETS[::10]:
        with contextlib.suppress(NotFollowed):
            verify.__wrapped__(snippet.source, RULE)
        own = ast.parse(snippet.source)
        assert ast.dump(tree_of(snippet.source)) == ast.dump(own), snippet.name
