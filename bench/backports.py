"""Upstream's real fixes, taken to the releases before them: `python -m bench.backports CLONE PRS`.

CLONE is a clone of vLLM with the fixes' commits, PRS a JSON list of `{pr, commit, time, files}`.
Each fix goes to the three releases before the first one that has it, by this project, by
`patch -F0`, `patch` and `git merge-file`; and each is looked for in that first release, by this
project and by reverse-applying. What is right is decided by an oracle that shares nothing with
the merge or the proof: `_delta` counts statements.
"""

from __future__ import annotations

import ast
import collections
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from bench.releases import DATES, release_file
from patcher.errors import NotPython, ProofFailed
from patcher.rules.backport.changed import changed_scopes
from patcher.rules.backport.merging.merge import Found, State, merge_file, overall
from patcher.rules.backport.proving.prove import prove
from patcher.rules.backport.scope import Sides

RIVALS = ("patch -F0", "patch", "git merge-file")


@dataclass
class Fix:
    """A pull request: its Python files under vllm/ before and after, and its scopes."""

    pr: int
    time: float
    before: dict[str, bytes] = field(default_factory=dict)
    after: dict[str, bytes] = field(default_factory=dict)
    sides: dict[str, list[Sides]] = field(default_factory=dict)


def read_fixes(clone: str, listed: list[dict[str, object]]) -> Iterator[Fix]:
    """The fixes that change nothing but existing Python files, and some code in them."""
    for each in listed:
        commit = each["commit"]
        fix = Fix(int(str(each["pr"])), float(str(each["time"])))
        names = _git(clone, "diff", "--name-status", f"{commit}^", str(commit)).decode()
        changes = [line.split("\t") for line in names.splitlines()]
        code = [c for c in changes if c[-1].startswith(("vllm/", "csrc/", "cmake/", "rust/"))]
        if not code or any(c[0] != "M" or not c[-1].endswith(".py") for c in code):
            continue
        for _, path in code:
            fix.before[path] = _git(clone, "show", f"{commit}^:{path}")
            fix.after[path] = _git(clone, "show", f"{commit}:{path}")
            try:
                sides = changed_scopes(path, fix.before[path], fix.after[path])
            except NotPython:
                break
            if sides:
                fix.sides[path] = sides
        else:
            if fix.sides:
                yield fix


def _git(clone: str, *arguments: str) -> bytes:
    return subprocess.run(["git", "-C", clone, *arguments], capture_output=True, check=True).stdout


# ---- the oracle


def statements(source: bytes) -> collections.Counter[tuple[str, str]]:
    """Every statement's own part with the scope and the blocks around it, counted."""
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
        label = getattr(node, "name", None) or type(node).__name__
        walk(node, f"{where}/{label}")

    walk(ast.parse(source), "")
    return found


Delta = tuple[collections.Counter[tuple[str, str]], collections.Counter[tuple[str, str]]]


def _delta(before: bytes, after: bytes) -> Delta:
    one, other = statements(before), statements(after)
    return other - one, one - other


def is_accounted(fix: Fix, path: str, original: bytes, result: bytes) -> bool:
    """Whether just the pull request's statements came and went, imports that went aside."""
    came, went = _delta(original, result)
    wanted, unwanted = _delta(fix.before[path], fix.after[path])
    code = [_without_imports(each) for each in (came, went, wanted, unwanted)]
    if code[0] != code[2] or code[1] != code[3]:
        return _is_rooted(fix, path, original, result)
    return not (came - wanted)


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


# ---- the contestants


def ours(fix: Fix, version: str) -> tuple[str, dict[str, bytes], str]:
    """What this project says of a release, the files that it would write, and why not."""
    found: list[Found] = []
    results: dict[str, bytes] = {}
    originals: dict[str, bytes] = {}
    for path, sides in fix.sides.items():
        data = release_file(version, path)
        if data is None:
            return "absent", {}, f"no {path}"
        merged = merge_file(data, sides)
        found += merged.found
        results[path], originals[path] = merged.data, data
    state = overall(found)
    if state.state is not State.NEEDED:
        return str(state.state), {}, state.reason
    try:
        for path, result in results.items():
            prove(originals[path], result, fix.sides[path])
            again = overall(merge_file(result, fix.sides[path]).found)
            if again.state not in (State.LANDED, State.UNKNOWN) or "half" in again.reason:
                raise ProofFailed("a second run would change it", next_step="-")
    except ProofFailed as error:
        return "unproven", {}, error.problem
    return "needed", results, ""


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


def main() -> None:
    """Print the figures; a JSON line for each pair goes to the file named third."""
    clone, listed = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
    log = Path(sys.argv[3]).open("w") if len(sys.argv) > 3 else None  # noqa: SIM115
    counts: dict[tuple[str, int], collections.Counter[str]] = collections.defaultdict(
        collections.Counter
    )
    recognised: collections.Counter[str] = collections.Counter()
    fixes = 0
    for fix in read_fixes(clone, listed):
        merged_at = datetime.fromtimestamp(fix.time, UTC)
        first = first_release(fix, merged_at)
        if first is None:
            continue
        fixes += 1
        versions = list(DATES)
        verdict, _, reason = ours(fix, first)
        recognised[f"ours {verdict}"] += 1
        recognised["reverse-apply"] += reverse_applies(fix, first)
        _log(log, pr=fix.pr, version=first, back=0, ours=verdict, reason=reason)
        for back in (1, 2, 3):
            at = versions.index(first) - back
            if at >= 0:
                _pair(fix, versions[at], back, counts, log)
    print(f"{fixes} fixes")
    print("first release:", dict(recognised))
    for (name, back), counted in sorted(counts.items()):
        print(f"{name:16} {back} back: {dict(counted)}")


def first_release(fix: Fix, merged_at: datetime) -> str | None:
    """The first release that has the fix: by the files' content where that is plain, else by date.

    A release branch is cut some days before its date: where the next release has the fixed file
    as it was and this one the file from before, it is the next.
    """
    later = [v for v, date in DATES.items() if date > merged_at]
    for version in later[:2]:
        accounted = [
            (release_file(version, path), fix.before[path], fix.after[path]) for path in fix.sides
        ]
        if any(data is None for data, _, _ in accounted):
            return version
        if all(_has(data or b"", before, after) for data, before, after in accounted):
            return version
    return later[1] if len(later) > 1 else None


def _has(data: bytes, before: bytes, after: bytes) -> bool:
    """Most of the lines that came are there, and most of those that went are not."""
    lines, old, new = (collections.Counter(text.splitlines()) for text in (data, before, after))
    came, went = new - old, old - new
    return sum((came & lines).values()) >= 0.8 * sum(came.values()) and sum(
        max(0, lines[line] - new[line]) > 0 for line in went
    ) <= 0.2 * len(went)


def _pair(
    fix: Fix,
    version: str,
    back: int,
    counts: dict[tuple[str, int], collections.Counter[str]],
    log: object,
) -> None:
    verdict, results, reason = ours(fix, version)
    outcome = verdict
    if verdict == "needed":
        outcome = "merged" if _is_right(fix, version, results) else "WRONG"
    counts["ours", back][outcome] += 1
    row = {"pr": fix.pr, "version": version, "back": back, "ours": outcome, "reason": reason}
    for name in RIVALS:
        made = rival(name, fix, version)
        if made is None:
            result = "refused"
        elif all(made[path] == release_file(version, path) for path in made):
            result = "no-op"
        else:
            result = "merged" if _is_right(fix, version, made) else "WRONG"
        counts[name, back][result] += 1
        row[name] = result
    _log(log, **row)


def _is_right(fix: Fix, version: str, results: dict[str, bytes]) -> bool:
    try:
        return all(
            is_accounted(fix, path, release_file(version, path) or b"", result)
            for path, result in results.items()
        )
    except SyntaxError:
        return False


def _log(file: object, **row: object) -> None:
    if file is not None:
        print(json.dumps(row), file=file, flush=True)  # type: ignore[call-overload]


if __name__ == "__main__":
    main()
