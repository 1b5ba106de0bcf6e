"""images.lock: a table of it, plain data, and what `update` and `prune` did as Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from patcher.answer import Document
from patcher.report.markdown import code, prose
from patcher.report.table import table
from patcher.text import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from patcher.lock.drift import Gone, Pruned
    from patcher.lock.entries import Entry, Pin, Unread
    from patcher.lock.newer import Update


def lock_table(entries: Sequence[Entry], width: int | None = None) -> list[str]:
    """The lock under a header, a line for each pin; on a terminal of some width digests are cut to
    twelve digits.
    """
    return pins_table([(entry, entry.locked.pins()) for entry in entries], width)


def pins_table(
    pins: Iterable[tuple[Entry, Iterable[tuple[str, Pin]]]], width: int | None = None
) -> list[str]:
    """As `lock_table`, of some pins of each entry."""
    rows = [("VERSION", "PIN", "DIGEST", "REFERENCE")]
    for entry, some in pins:
        for kind, pin in some:
            digest = pin.digest if width is None else pin.digest.partition(":")[2][:12]
            rows.append((str(entry.locked.version), kind, digest, str(entry.original.reference)))
    return table(rows, width)


def entry_json(entry: Entry) -> dict[str, Any]:
    """An entry of the lock as plain data."""
    locked = entry.locked
    return {
        "version": str(locked.version),
        "commit": locked.commit,
        "original": {
            "version": entry.original.version,
            "reference": str(entry.original.reference),
        },
        "pins": [
            {"kind": kind, "digest": pin.digest, "stated_by": pin.stated_by}
            for kind, pin in locked.pins()
        ],
    }


def gone_json(gone: Gone) -> dict[str, Any]:
    """What is gone of an entry, as plain data."""
    return {
        "image": entry_json(gone.entry),
        "digests": [pin.digest for _, pin in gone.pins],
        "whole": gone.whole,
    }


def gone_summary(gone: Sequence[Gone]) -> str:
    """How many images `lock prune` dropped, whole or in part."""
    if not gone:
        return "nothing is gone"
    whole = sum(each.whole for each in gone)
    said = f"{counted(whole, 'image')} dropped"
    return said if whole == len(gone) else f"{said}, {len(gone) - whole} in part"


def update_markdown(update: Update) -> Document:
    """What `lock update` added, from where, and what it could not read."""
    looked = ", ".join(map(code, update.repositories)) or "nothing"
    lines = [f"## images.lock: {len(update.added)} newer", "", f"Looked in {looked}.", ""]
    if update.added:
        lines += ["| vLLM | commit | image | locked |", "|---|---|---|---|"]
        lines += map(_added, update.added)
        lines.append("")
    return _end([*lines, *_unread(update.unread)])


def _added(entry: Entry) -> str:
    """A row. Of the pins the first, which is what is pulled; the others are in the diff."""
    kind, pin = next(entry.locked.pins())
    commit = code(entry.locked.commit[:12]) if entry.locked.commit else "-"
    said = code(str(entry.locked.version)), commit, code(str(entry.original.reference))
    return f"| {' | '.join(said)} | {kind} {code(pin.digest)} |"


def prune_markdown(pruned: Pruned) -> Document:
    """What `lock prune` dropped, and what it could not ask after."""
    whole = sum(each.whole for each in pruned.gone)
    title = f"## images.lock: {whole} gone upstream"
    parts = len(pruned.gone) - whole
    lines = [f"{title}, {parts} in part" if parts else title, ""]
    for each in pruned.gone:
        entry = each.entry
        what = ", ".join(f"{kind} {code(pin.digest)}" for kind, pin in each.pins)
        name = f"{code(str(entry.locked.version))} ({code(str(entry.original.reference))})"
        lines.append(f"- {name}: {what}{'' if each.whole else '; the rest stays'}")
    return _end([*lines, "", *_unread(pruned.unread)])


def _unread(unread: Sequence[Unread]) -> list[str]:
    if not unread:
        return []
    items = [f"- {code(each.image)}: {prose(each.problem)}" for each in unread]
    return ["### Could not be read, and stays as it was", "", *items, ""]


def _end(lines: Sequence[str]) -> Document:
    return Document("\n".join(lines).rstrip("\n") + "\n\n")
