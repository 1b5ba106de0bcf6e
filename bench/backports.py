"""Upstream's real fixes, taken to the releases before them: `python -m bench.backports CLONE PRS`.

CLONE is a clone of vLLM with the fixes' commits, PRS a JSON list of `{pr, commit, time}`. Each fix
goes to the three releases before the first one that has it (`bench/upstream.py` says which), by
this project, by `patch -F0`, `patch` and `git merge-file`; and each is looked for in that first
release, by this project and by reverse-applying. What is right is decided by an oracle that shares
nothing with the merge or the proof: it counts statements and syntax nodes, asks ruff for names
that nothing defines, and looks for what is imported from vLLM in the release's own modules. All
contestants are judged by it, and not by what they say of themselves. `--mutations 1000` holds the
proof against mutations of what was merged.
"""

from __future__ import annotations

import argparse
import ast
import collections
import contextlib
import itertools
import json
import os
import platform
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from bench.mutations import KINDS, mutants
from bench.releases import DATES, Kept, release_file
from bench.upstream import History, content_of, git
from patcher.errors import NotPython, ProofFailed
from patcher.rules.backport.changed import changed_scopes
from patcher.rules.backport.imports import missing, modules, not_imported, used
from patcher.rules.backport.merging.merge import merge_file
from patcher.rules.backport.merging.state import Said, State, overall
from patcher.rules.backport.moved import moves, placed, standing_at
from patcher.rules.backport.proving.prove import prove
from patcher.rules.backport.scope import Sides

KEPT = Kept()
RIVALS = ("patch -F0", "patch", "git merge-file")


@dataclass
class Fix:
    """A pull request: its Python files under vllm/ before and after, and its scopes."""

    pr: int
    commit: str
    time: float
    before: dict[str, bytes] = field(default_factory=dict)
    after: dict[str, bytes] = field(default_factory=dict)
    sides: dict[str, list[Sides]] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """What one contestant made of a fix and a release; `back` is 0 for the first that has it.

    `whole`: the release has all files of the fix, without which nobody can merge it.
    """

    pr: int
    version: str
    back: int
    who: str
    outcome: str
    reason: str = ""
    whole: bool = True


def read_fix(clone: str, pr: int, commit: str, time: float) -> Fix | str:
    """A fix that changes existing Python files and nothing else that is run; or why it is not."""
    fix = Fix(pr, commit, time)
    names = git(clone, "diff", "--name-status", f"{commit}^", commit).decode()
    changes = [line.split("\t") for line in names.splitlines()]
    code = [c for c in changes if c[-1].startswith(("vllm/", "csrc/", "cmake/", "rust/"))]
    if any(not c[-1].startswith("vllm/") for c in code):
        return "compiled code"
    if any(c[0] != "M" for c in code):
        return "a file comes, goes or is renamed"
    if any(not c[-1].endswith(".py") for c in code):
        return "a file that is not Python"
    for _, path in code:
        fix.before[path] = content_of(clone, f"{commit}^:{path}")
        fix.after[path] = content_of(clone, f"{commit}:{path}")
        try:
            sides = changed_scopes(path, fix.before[path], fix.after[path])
        except NotPython:
            return "a file that is not Python"
        if sides:
            fix.sides[path] = used(sides)
    return fix if fix.sides else "comments and docstrings alone"


# ---- the oracle


@lru_cache(maxsize=200)
def statements(
    source: bytes, *, by_condition: bool = False
) -> collections.Counter[tuple[str, str]]:
    """Every statement's own part with the scope and the blocks around it, counted.

    `by_condition`: each branch of an `if` is known by its condition, and not, as in Python's tree,
    by how many are before it.
    """
    found: collections.Counter[tuple[str, str]] = collections.Counter()

    def walk(node: ast.AST, where: str) -> None:
        for name, value in ast.iter_fields(node):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
                    add(child, f"{where}/{name}")

    def add(node: ast.AST, where: str) -> None:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return  # a docstring
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = f"{getattr(node, 'level', '')}{getattr(node, 'module', '')}"
            for alias in node.names:
                found[where, f"import {module} {ast.dump(alias)}"] += 1
            return
        parts = [
            ast.dump(value) if isinstance(value, ast.AST) else str(value)
            for name, value in ast.iter_fields(node)
            if not isinstance(value, list)
        ]
        lists = [
            ast.dump(each) if isinstance(each, ast.AST) else str(each)
            for name, value in ast.iter_fields(node)
            if isinstance(value, list)
            for each in value
            if not isinstance(each, ast.stmt | ast.ExceptHandler | ast.match_case)
        ]
        text = f"{type(node).__name__} {parts}"
        found[where, text] += 1
        for each in lists:
            found[where, f"{text[:60]} has {each}"] += 1
        if by_condition and isinstance(node, ast.If):
            for child in node.body:
                add(child, f"{where}/if {ast.dump(node.test)}")
            is_chain = len(node.orelse) == 1 and isinstance(node.orelse[0], ast.If)
            for child in node.orelse:
                add(child, f"{where.removesuffix('/elif')}/{'elif' if is_chain else 'else'}")
            return
        label = getattr(node, "name", None) or type(node).__name__
        walk(node, f"{where}/{label}")

    walk(ast.parse(source), "")
    return found


Delta = tuple[collections.Counter[tuple[str, str]], collections.Counter[tuple[str, str]]]


def _delta(before: bytes, after: bytes, *, by_condition: bool = False) -> Delta:
    one, other = (statements(each, by_condition=by_condition) for each in (before, after))
    return other - one, one - other


def is_accounted(fix: Fix, path: str, original: bytes, result: bytes) -> bool:
    """Whether just the pull request's statements came and went, imports that went aside."""
    for by_condition in (False, True):
        came, went = _delta(original, result, by_condition=by_condition)
        wanted, unwanted = _delta(fix.before[path], fix.after[path], by_condition=by_condition)
        code = [_without_imports(each) for each in (came, went, wanted, unwanted)]
        if code[0] == code[2] and code[1] == code[3]:
            return not (came - wanted)
    return _is_rooted(fix, path, original, result)


def content(fix: Fix, version: str) -> bool | None:
    """Whether a release's files have all statements that came and none that went, or neither."""
    answers: set[bool | None] = set()
    for path in fix.sides:
        data = release_file(version, path)
        if data is None:
            return None
        sources = (data, fix.before[path], fix.after[path])
        said = _counted(*map(statements, sources))
        # A statement that the release has otherwise beside the fix's part is told by its parts.
        answers.add(said if said is not None else _counted(*map(_tokens, sources)) or None)
    return answers.pop() if len(answers) == 1 else None


Counted = collections.Counter[tuple[str, str]]


def _counted(own: Counted, was: Counted, becomes: Counted) -> bool | None:
    came, went = becomes - was, was - becomes
    if all(own[key] >= becomes[key] for key in came) and all(
        own[key] <= becomes[key] for key in went
    ):
        return True
    lacks = all(own[key] <= was[key] for key in came)
    return False if lacks and all(own[key] >= was[key] for key in went) else None


def _is_rooted(fix: Fix, path: str, original: bytes, result: bytes) -> bool:
    """The statement both changed, in different parts: by element, path by path."""
    tokens = [_tokens(each) for each in (fix.before[path], fix.after[path], original, result)]
    before, after, own, new = tokens
    return (new - own, own - new) == (after - before, before - after)


def _tokens(source: bytes) -> collections.Counter[tuple[str, str]]:
    found: collections.Counter[tuple[str, str]] = collections.Counter()

    def walk(node: ast.AST, where: str) -> None:
        if isinstance(node, ast.Import | ast.ImportFrom):
            return
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return
        name = getattr(node, "name", None) if isinstance(node, ast.stmt) else None
        own = f"{where}/{name or type(node).__name__}"
        scalars = [
            f"{field}={value!r}"
            for field, value in ast.iter_fields(node)
            if not isinstance(value, ast.AST | list)
        ]
        found[own, " ".join(scalars)] += 1
        for child in ast.iter_child_nodes(node):
            walk(child, own)

    walk(ast.parse(source), "")
    return found


def _without_imports(
    counted: collections.Counter[tuple[str, str]],
) -> collections.Counter[tuple[str, str]]:
    return collections.Counter(
        {key: count for key, count in counted.items() if not key[1].startswith("import ")}
    )


@lru_cache(maxsize=2000)
def _undefined(source: bytes) -> frozenset[str]:
    """Names that ruff finds defined nowhere."""
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "--select", "F821",
         "--output-format", "json", "--stdin-filename", "a.py", "-"],
        input=source, capture_output=True, check=False,
    )  # fmt: skip
    return frozenset(each["message"] for each in json.loads(done.stdout))


def _lost(fix: Fix, path: str, original: bytes, result: bytes) -> set[bytes]:
    """Attributes of self that the fix reads and that only its own file sets or defines."""
    read = {*re.findall(rb"self\.(\w+)", result)} - {*re.findall(rb"self\.(\w+)", original)}
    words = {*re.findall(rb"\w+", original)}
    set_ = re.compile(
        rb"self\.(\w+)(?:: [^=\n]+)? = |^ +(?:async )?def (\w+)|^    (\w+):", re.MULTILINE
    )
    by_fix = {name for found in set_.findall(fix.after[path]) for name in found if name}
    here = {name for found in set_.findall(result) for name in found if name}
    return (read & by_fix) - words - here


def _unresolved(version: str, path: str, results: dict[str, bytes]) -> set[str]:
    """What comes from a module of vLLM's that does not have it: `module: name`."""
    original = release_file(version, path) or b""
    if b"import" not in b"".join({*results[path].splitlines()} - {*original.splitlines()}):
        return set()
    came = _from_vllm(path, results[path]) - _from_vllm(path, original)
    lost = set()
    for stem, name in came:
        files = [f"{stem}.py", f"{stem}/__init__.py"]
        sources = [results.get(file) or release_file(version, file) for file in files]
        known = {each for data in sources if data is not None for each in _assigned(data)}
        within = [f"{stem}/{name}.py", f"{stem}/{name}/__init__.py"]
        if not known & {name, "*", "__getattr__"} and not any(
            release_file(version, file) for file in within
        ):
            lost.add(f"{stem}: {name}")
    return lost


def _from_vllm(path: str, source: bytes) -> set[tuple[str, str]]:
    """Module, as a path without its ending, and name; not what only type checkers read."""
    found: set[tuple[str, str]] = set()
    pending: list[ast.AST] = [ast.parse(source)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.ImportFrom):
            around = path.split("/")[: -node.level] if node.level else []
            stem = "/".join([*around, *(node.module or "").split(".")]).rstrip("/")
            if stem.split("/")[0] == "vllm":
                found.update((stem, alias.name) for alias in node.names)
        is_typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if not isinstance(node, ast.expr | ast.Try) and not is_typing:
            pending += ast.iter_child_nodes(node)
    return found


@lru_cache(maxsize=500)
def _assigned(source: bytes) -> frozenset[str]:
    """The names that a module may have: all that are bound anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.alias):
            found.add(node.asname or node.name)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
    return frozenset(found)


def judge(fix: Fix, version: str, results: dict[str, bytes]) -> tuple[str, str]:
    """Whether the results are the release with the fix: merged, no-op, silent or wrong."""
    originals = {path: release_file(version, path) or b"" for path in results}
    if all(originals[path] == result for path, result in results.items()):
        return "no-op", ""
    for path, result in results.items():
        try:
            accounted = is_accounted(fix, path, originals[path], result)
        except SyntaxError as error:
            return "wrong", f"{path} is not Python: {error}"
        if not accounted:
            came, went = _delta(originals[path], result)
            wanted, unwanted = _delta(fix.before[path], fix.after[path])
            missing = _without_imports(wanted - came) + _without_imports(unwanted - went)
            surplus = _without_imports(came - wanted) + _without_imports(went - unwanted)
            if missing and not surplus:
                return "silent", f"{path} lacks {len(missing)} statements of the fix"
            return "wrong", f"{path} is not the release with the fix"
        undefined = _undefined(result) - _undefined(originals[path])
        if undefined:
            return "wrong", f"{path}: {min(undefined)}"
        if lost := _lost(fix, path, originals[path], result):
            return "wrong", f"{path}: nothing sets self.{min(lost).decode()}"
        if unresolved := _unresolved(version, path, results):
            return "wrong", f"{path}: nothing to import as {min(unresolved)}"
    return "merged", ""


def where_it_stands(fix: Fix, first: str, version: str) -> Fix:
    """The fix with its files as an older release has them; all contestants are given it so.

    What was moved since is found as `vllm-patcher new` finds it.
    """
    releases = list(reversed(list(DATES)))
    between = releases[releases.index(first) : releases.index(version) + 1]
    moved = [
        (each.path, each.other)
        for path in fix.sides
        if release_file(version, path) is None and release_file(first, path) is not None
        for each in moves([path], between, KEPT)
    ]
    files = {path: release_file(version, path) for pair in moved for path in pair}
    where, _ = standing_at(moved, files)
    return replace(
        fix,
        before={where.get(path, path): data for path, data in fix.before.items()},
        after={where.get(path, path): data for path, data in fix.after.items()},
        sides={where.get(path, path): placed(own, where) for path, own in fix.sides.items()},
    )


# ---- the contestants


def ours(fix: Fix, version: str) -> tuple[State, dict[str, bytes], str]:
    """What this project says of a release, the files that it would write, and why not."""
    found: list[Said] = []
    results: dict[str, bytes] = {}
    originals: dict[str, bytes] = {}
    for path, own in fix.sides.items():
        data = release_file(version, path)
        if data is None:
            return State.ABSENT, {}, "there is no such file"
        merged = merge_file(data, own)
        found += merged.said
        results[path], originals[path] = merged.data, data
    state = overall(found)
    sides = [each for some in fix.sides.values() for each in some]
    if state.state is State.LANDED and (lost := not_imported(originals, sides)):
        return State.UNKNOWN, {}, lost
    if state.state is not State.NEEDED:
        return state.state, {}, state.reason
    there = {path: release_file(version, path) for path in modules(sides)}
    if lost := missing({**there, **originals}, sides):
        return State.UNKNOWN, {}, lost
    try:
        again = []
        for path, result in results.items():
            prove(originals[path], result, fix.sides[path])
            again += list(merge_file(result, fix.sides[path]).said)
        second = overall(again)
    except ProofFailed as error:
        return State.UNKNOWN, {}, error.problem
    if second.state is not State.LANDED:
        return State.UNKNOWN, {}, f"the result is {second.state}: {second.reason}"
    return State.NEEDED, results, ""


def rival(name: str, fix: Fix, version: str) -> dict[str, bytes] | None:
    """A rival's files; None where it fails on one."""
    results = {}
    for path in fix.sides:
        data = release_file(version, path)
        if data is None:
            return None
        made = _merge_file(fix, path, data) if "merge" in name else _patch(name, fix, path, data)
        if made is None:
            return None
        results[path] = made
    return results


def _merge_file(fix: Fix, path: str, data: bytes) -> bytes | None:
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("own", "base", "fixed")]
        for file, content in zip(files, (data, fix.before[path], fix.after[path]), strict=True):
            file.write_bytes(content)
        done = subprocess.run(
            ["git", "merge-file", "-p", "-q", *map(str, files)], capture_output=True, check=False
        )
        return done.stdout if done.returncode == 0 else None


def _patch(name: str, fix: Fix, path: str, data: bytes, *more: str) -> bytes | None:
    with tempfile.TemporaryDirectory() as folder:
        own, base, fixed = (Path(folder, name) for name in ("own", "base", "fixed"))
        for file, content in ((own, data), (base, fix.before[path]), (fixed, fix.after[path])):
            file.write_bytes(content)
        diff = subprocess.run(
            ["diff", "-u", str(base), str(fixed)], capture_output=True, check=False
        ).stdout
        flags = [*name.split()[1:], *more]
        done = subprocess.run(
            ["patch", *flags, "--batch", "-s", "-r", "-", str(own)],
            input=diff, capture_output=True, check=False,
        )  # fmt: skip
        return own.read_bytes() if done.returncode == 0 else None


def reverse_applies(fix: Fix, version: str) -> bool:
    """Whether the diff can be taken out of a release: what others take for 'landed'."""
    for path in fix.sides:
        data = release_file(version, path)
        if data is None or _patch("patch -F0", fix, path, data, "-R", "-f") is None:
            return False
    return True


# ---- the run


def measure(fix: Fix, truth: dict[str, bool | None]) -> list[Row]:
    """What all contestants make of a fix; `truth` says which releases have it."""
    later = [version for version, day in DATES.items() if day.timestamp() > fix.time]
    first = next((version for version in later if truth[version]), None)
    if first is None:
        return [Row(fix.pr, "", 0, "history", "no release has it")]
    if content(fix, first) is False:
        return [Row(fix.pr, first, 0, "history", "main took it back before that release")]
    verdict, _, reason = ours(fix, first)
    reverse = reverse_applies(fix, first)
    rows = [
        Row(fix.pr, first, 0, "ours", str(verdict), reason),
        Row(fix.pr, first, 0, "reverse-apply", "landed" if reverse else "unknown"),
    ]
    versions = list(DATES)
    for back in (1, 2, 3):
        at = versions.index(first) - back
        if at < 0:
            continue
        version = versions[at]
        if truth[version] is not False:
            # None: the branch changed the files by itself, and it cannot be told by which commit.
            # True: the fix takes back what came after this release.
            rows.append(Row(fix.pr, version, back, "history", f"has it: {truth[version]}"))
            continue
        own = where_it_stands(fix, first, version)
        state, results, reason = ours(own, version)
        outcome = "refused"
        if state is State.NEEDED:
            outcome, reason = judge(own, version, results)
        elif state is State.LANDED:
            # Where upstream takes a mistake back, a release from before it has what the fix brings.
            outcome = "landed" if content(own, version) else "falsely landed"
        whole = all(release_file(version, path) is not None for path in own.sides)
        rows.append(Row(fix.pr, version, back, "ours", outcome, reason, whole))
        if reverse_applies(own, version) and not content(own, version):
            rows.append(Row(fix.pr, version, back, "reverse-apply", "falsely landed"))
        for name in RIVALS:
            made = rival(name, own, version)
            said = ("refused", "") if made is None else judge(own, version, made)
            rows.append(Row(fix.pr, version, back, name, *said, whole))
    return rows


def _has(fix: Fix, version: str, history: History) -> bool | None:
    """Whether a release has the fix; where its branch changed the file, by counting statements."""

    def holds(path: str, cut: bytes, wheel: bytes) -> bool | None:
        came, went = _delta(fix.before[path], fix.after[path])
        had, lost = _delta(cut, wheel)
        if came <= had and went <= lost:
            return True
        return None if came & had or went & lost else False

    return history.has(version, fix.commit, fix.sides, holds)


def mutate(fix: Fix, version: str, count: int) -> list[tuple[str, str]]:
    """The kinds of the mutations of a merged result, each with what the proof let pass or not."""
    seed = random.Random(fix.pr)  # noqa: S311 - the same in every run
    state, results, _ = ours(fix, version)
    if state is not State.NEEDED:
        return []
    rows = []
    for path, result in results.items():
        original = release_file(version, path) or b""
        for kind, mutant in mutants(original, result, seed, count):
            try:
                prove(original, mutant, fix.sides[path])
            except ProofFailed:
                rows.append((kind, "caught"))
            else:
                rows.append((kind, f"MISSED: {fix.pr} on {version}, {path}"))
                Path(f"missed-{fix.pr}-{version}-{len(rows)}.py").write_bytes(mutant)
    return rows


_SHARED: list[History | str] = []  # inherited by the processes that measure


def _read(each: dict[str, object]) -> Fix | str:
    pr, commit, time = (str(each[name]) for name in ("pr", "commit", "time"))
    return read_fix(str(_SHARED[0]), int(pr), commit, float(time))


def _measured(fix: Fix) -> list[Row]:
    history = _SHARED[1]
    assert isinstance(history, History)
    return measure(fix, {version: _has(fix, version, history) for version in DATES})


def _mutated(task: tuple[Fix, str, int]) -> list[tuple[str, str]]:
    return mutate(*task)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="python -m bench.backports", description=__doc__)
    parser.add_argument("clone", metavar="CLONE")
    parser.add_argument("prs", metavar="PRS", type=Path)
    parser.add_argument("--log", type=Path, help="write each figure to this file, a line of JSON")
    parser.add_argument("--mutations", type=int, default=0, metavar="N")
    parser.add_argument("--jobs", type=int, metavar="N", help="processes; one a core by default")
    wanted = parser.parse_args()
    listed = json.loads(wanted.prs.read_text())
    print(
        f"machine: {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    )
    _SHARED.append(wanted.clone)
    with ProcessPoolExecutor(wanted.jobs) as pool:
        read = list(pool.map(_read, listed, chunksize=8))
    fixes = [each for each in read if isinstance(each, Fix)]
    left_out = collections.Counter(each for each in read if isinstance(each, str))
    print(f"{len(listed)} pull requests, of which {len(fixes)} are taken back")
    for why, count in left_out.most_common():
        print(f"  left out: {count:4} {why}")
    _SHARED.append(History(wanted.clone, (path for fix in fixes for path in fix.before)))
    with ProcessPoolExecutor(wanted.jobs) as pool:
        rows = list(_logged(pool.map(_measured, fixes, chunksize=4), wanted.log))
    report(rows)
    if wanted.mutations:
        report_mutations(fixes, rows, wanted.mutations, wanted.jobs)


def _logged(measured: Iterable[list[Row]], log: Path | None) -> Iterator[Row]:
    """Every row, written down as it comes."""
    with log.open("w") if log else contextlib.nullcontext() as file:
        for row in itertools.chain.from_iterable(measured):
            if file:
                print(json.dumps(vars(row)), file=file, flush=True)
            yield row


OUTCOMES = ("merged", "landed", "no-op", "refused", "wrong", "silent", "falsely landed")


def report(rows: list[Row]) -> None:
    """Print the tables."""
    for row in rows:
        if row.who == "history":
            print(f"  left out: {row.pr} on {row.version or 'all'}: {row.outcome}")
    first = [row for row in rows if row.back == 0 and row.who != "history"]
    fixes = {row.pr for row in first}
    print(f"\n{len(fixes)} fixes, by the first release that has them:")
    for who in ("ours", "reverse-apply"):
        counts = collections.Counter(row.outcome for row in first if row.who == who)
        _percent(who, counts, ("landed", "needed", "unknown", "absent"))
    for title, tried in (
        ("releases before it", [row for row in rows if row.back > 0]),
        ("those with all files of the fix", [row for row in rows if row.back > 0 and row.whole]),
    ):
        print(f"\n{title}, each result judged by the oracle:")
        for back in (1, 2, 3):
            for who in ("ours", *RIVALS):
                made = [row.outcome for row in tried if (row.back, row.who) == (back, who)]
                _percent(f"{who}, {back} back", collections.Counter(made), OUTCOMES)
            right = {row.pr for row in tried if row.back == back and row.outcome == "merged"}
            print(f"by one of them at least, {back} back: merged {len(right)}")
    false = sum(row.who == "reverse-apply" and row.back > 0 for row in rows)
    print(f"reverse-apply, falsely landed: {false}")
    for title, backs in (
        ("not recognised", (0,)),
        ("refused 1 back", (1,)),
        ("refused", (1, 2, 3)),
    ):
        some = [
            row
            for row in rows
            if row.who == "ours" and row.back in backs
            and row.outcome not in ("merged", "landed")
        ]  # fmt: skip
        print(f"\nours, {title}, and why:")
        for why, count in collections.Counter(map(kind_of, some)).most_common():
            print(f"{count:5} {why}")


def _percent(title: str, counts: collections.Counter[str], names: tuple[str, ...]) -> None:
    total = sum(counts.values())
    parts = [f"{name} {counts[name]:3} ({100 * counts[name] / total:.1f} %)" for name in names]
    print(f"{title:24} {total:4}: {', '.join(parts)}")


def kind_of(row: Row) -> str:
    """A refusal's reason without its names and numbers."""
    reason = re.sub(r"[\w/]+\.py(: )?", "", row.reason)
    reason = re.sub(r"'.*'|\"(.*)\"|\b\d+\b|b'.*'", "..", reason)
    names = r"<?\b(?:\w+\.\w[\w.]*|[A-Za-z]\w*_\w+|_\w+|[a-z]+[A-Z]\w*|[A-Z]\w*[a-z]\w*[A-Z]\w*)>?"
    return f"{row.outcome}: {re.sub(names, 'NAME', reason)[:120]}"


def report_mutations(fixes: list[Fix], rows: list[Row], count: int, jobs: int | None) -> None:
    """Print what the proof caught."""
    merged = {row.pr: row.version for row in rows if row.who == "ours" and row.outcome == "merged"}
    first = {row.pr: row.version for row in rows if row.back == 0}
    chosen = [(fix, merged[fix.pr]) for fix in fixes if fix.pr in merged]
    each = -(-count // max(1, len(chosen)))
    tasks = [
        (where_it_stands(fix, first[fix.pr], version), version, each) for fix, version in chosen
    ]
    with ProcessPoolExecutor(jobs) as pool:
        found = [row for some in pool.map(_mutated, tasks, chunksize=4) for row in some]
    print(f"\n{len(found)} mutations of {len(chosen)} merged results")
    for kind in KINDS:
        caught = collections.Counter(what for name, what in found if name == kind)
        print(f"{kind:12} {caught['caught']:4} of {caught.total()}")
    for _, what in found:
        if what != "caught":
            print(what)


if __name__ == "__main__":
    main()
