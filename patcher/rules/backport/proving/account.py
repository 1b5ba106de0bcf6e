"""Whether one tree was changed as another was: exactly the same came and went, at its place.

Four trees: upstream's before and after a fix, and an image's before and after it was patched.
Lists (blocks of statements, arguments, elements) are aligned here anew, by syntax and not by
lines; nothing of the merge is believed. `places.py` says whether a change is at its place.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from patcher.diff import Matcher
from patcher.errors import ProofFailed
from patcher.rules.backport.proving.places import At, Branch, Places, Step, branches, is_known

Node = ast.AST

# What has no order: each value is found by its name, or is one of a set.
_SETS = frozenset({(ast.Call, "keywords"), (ast.Set, "elts")})


class Account:
    """Compares four trees. `problem` says in words where they disagree; None where they do not."""

    def __init__(self) -> None:
        self._dumps: dict[int, tuple[object, str]] = {}

    def problem(
        self, before: object, after: object, original: object, result: object
    ) -> str | None:
        """None when `original` became `result` by just what made `before` into `after`."""
        if self._same(before, after):
            return None if self._same(original, result) else self._at(result, "changed undeclared")
        if self._same(original, before):
            return None if self._same(result, after) else self._at(result, "is not the fix's")
        four = (before, after, original, result)
        if all(isinstance(each, list) for each in four):
            return self._lists(*four)  # type: ignore[arg-type]
        kinds = {type(each) for each in four}
        if len(kinds) != 1 or not isinstance(before, ast.AST):
            return self._at(result, "the fix and the image changed the same")
        if isinstance(original, ast.AST) and not is_known(before, original):
            return self._at(result, "may be another one than the fix's")
        if isinstance(after, ast.AST) and (_is_within(before, after) or _is_within(after, before)):
            return self._at(result, "is around the one that the image changed, or was within it")
        if isinstance(before, ast.Dict):
            pairs = [_pairs(each) for each in four if isinstance(each, ast.Dict)]
            return self._lists(*pairs, is_set=True)
        chains = [branches(each) for each in four if isinstance(each, ast.If)]
        if any(len(chain) > 1 and chain[1].test for chain in chains):
            return self._lists(*chains)
        for name in before._fields:
            own = [getattr(each, name, None) for each in four]
            if (type(before), name) in _SETS:
                found = self._lists(*own, is_set=True)  # type: ignore[arg-type]
            else:
                found = self.problem(*own)
            if found is not None:
                return found
        return None

    def _lists(
        self,
        before: Sequence[Node],
        after: Sequence[Node],
        original: Sequence[Node],
        result: Sequence[Node],
        *,
        is_set: bool = False,
    ) -> str | None:
        """The same of four lists, of which each change must be at its place."""
        fix, made = self._align(before, after), self._align(original, result)
        own = self._align(before, original)
        counterpart = {
            step.old: step.new
            for step in own
            if step.old is not None
            and step.new is not None
            and (step.is_kept or is_known(before[step.old], original[step.new]))
        }
        places = Places(before, original, counterpart, is_set)
        declared = [at for at, step in enumerate(fix) if not step.is_kept]
        done = [at for at, step in enumerate(made) if not step.is_kept]
        if len(declared) != len(done):
            if len(done) > len(declared) and result:
                return self._at(result[0], "more changed near it than the fix declares")
            return "a part of the fix is missing"
        for here, there in zip(declared, done, strict=True):
            was, becomes = _of(before, fix[here].old), _of(after, fix[here].new)
            is_, new = _of(original, made[there].old), _of(result, made[there].new)
            if (was is None, becomes is None) != (is_ is None, new is None):
                return "a change is of another kind than the fix's"
            found = self._step(was, becomes, is_, new)
            if found is None and not places.agree(At(fix, here), At(made, there), becomes):
                found = self._at(new or is_, "is not where the fix has it")
            if found is not None:
                return found
        return None

    def _step(
        self, was: Node | None, becomes: Node | None, is_: Node | None, new: Node | None
    ) -> str | None:
        """The same of one element that came, went (None where it is not) or changed."""
        if was is None:
            return None if self._same(becomes, new) else self._at(new, "came and is not the fix's")
        if becomes is None:
            return None if self._same(was, is_) else self._at(is_, "went and is not the fix's")
        return self.problem(was, becomes, is_, new)

    def _align(self, old: Sequence[Node], new: Sequence[Node]) -> list[Step]:
        """Pair what is equal, then what has the same head, then what is of the same type."""
        return list(self._paired(old, new, range(len(old)), range(len(new)), 0))

    def _paired(
        self, old: Sequence[Node], new: Sequence[Node], olds: range, news: range, level: int
    ) -> Iterator[Step]:
        """The steps between two stretches that the levels before left unpaired."""
        if level == 3:
            yield from (Step(at, None) for at in olds)
            yield from (Step(None, at) for at in news)
            return
        key = (self._dump, self._head, lambda node: type(node).__name__)[level]
        matcher = Matcher([key(old[at]) for at in olds], [key(new[at]) for at in news])
        for tag, a, b, c, d in matcher.get_opcodes():
            if tag == "equal":
                for one, other in zip(olds[a:b], news[c:d], strict=True):
                    yield Step(one, other, self._same(old[one], new[other]))
            else:
                yield from self._paired(old, new, olds[a:b], news[c:d], level + 1)

    def _head(self, node: Node) -> str:
        """What a statement or argument is known by when its inside has changed."""
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                head: object = node.name
            case ast.If() | ast.While():
                head = node.test
            case ast.For() | ast.AsyncFor():
                head = node.target
            case ast.Assign():
                head = node.targets[0]
            case ast.AnnAssign() | ast.AugAssign():
                head = node.target
            case ast.Expr(value=ast.Call(func=func)):
                head = func
            case ast.Call():
                head = node.func
            case ast.keyword() | ast.arg():
                head = node.arg
            case ast.Tuple(elts=[first, _]):
                head = first
            case Branch(test=test):
                head = test
            case _:
                return type(node).__name__ + self._dump(node)
        return type(node).__name__ + (head if isinstance(head, str) else self._dump(head))

    def _same(self, one: object, other: object) -> bool:
        return self._dump(one) == self._dump(other)

    def _dump(self, value: object) -> str:
        """What two values that are equal have in common; made once for each."""
        kept = self._dumps.get(id(value))
        if kept is not None and kept[0] is value:
            return kept[1]
        if isinstance(value, ast.AST):
            text = ast.dump(value)
        elif isinstance(value, list):
            text = f"[{','.join(map(self._dump, value))}]"
        else:
            text = f"{type(value).__name__} {value!r}"
        if isinstance(value, ast.AST | list):
            self._dumps[id(value)] = (value, text)
        return text

    def _at(self, node: object, words: str) -> str:
        """A disagreement, with the line and text that it is about."""
        if isinstance(node, Branch):
            node = node.test or node.body
        if isinstance(node, list) and node:
            node = node[0]
        line = getattr(node, "lineno", None)
        text = ast.unparse(node).partition("\n")[0] if isinstance(node, ast.AST) else str(node)
        return f"{f'line {line}: ' if line else ''}{text[:80]!r} {words}"


def _of(nodes: Sequence[Node], at: int | None) -> Node | None:
    return None if at is None else nodes[at]


def _is_within(one: Node, other: Node) -> bool:
    """Whether a statement is within another, which is not the same one changed: an `if` in an `if`.

    What the image has on the one, as an `else`, would be the other's after the fix.
    """
    return not is_known(one, other) and any(
        type(each) is type(one) and is_known(one, each) for each in ast.walk(other)
    )


def _pairs(node: ast.Dict) -> list[ast.AST]:
    """A dict's entries, each as one."""
    return [
        ast.Tuple([key or ast.Constant(...), value], ast.Load())
        for key, value in zip(node.keys, node.values, strict=True)
    ]


def failed(problem: str) -> ProofFailed:
    """The error of a merged file whose proof does not hold."""
    return ProofFailed(
        f"the merged file failed its proof: {problem}",
        next_step="Nothing was written; the fix has to be taken over by hand here.",
    )
