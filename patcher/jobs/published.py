"""What a publication did, as data, as lines for a person, and as JSON."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from patcher.errors import printable

if TYPE_CHECKING:
    from patcher.jobs.job import FileChange
    from patcher.oci.reference import Platform
    from patcher.places.plan import Sent
    from patcher.rules.catalogue import Verdict


@dataclass(frozen=True, slots=True)
class PlatformReport:
    """One image of the result. `after` was judged on what was read back; empty in a dry run."""

    platform: Platform
    base_digest: str
    digest: str
    root: str
    vllm: str
    commit: str | None
    before: tuple[Verdict, ...]
    after: tuple[Verdict, ...]
    changes: tuple[FileChange, ...]


@dataclass(frozen=True, slots=True)
class Published:
    """What was published, or in a dry run would be.

    `tags` are all names that lead to it, `moved` those that did not before. Bytes are of payload:
    `lacking` of our own parts, `base_lacking` of the base's blobs that the target had not;
    `sent` is what went over, and less where blobs were mounted; `received` is what was read of
    registries, the base's layers too. `seconds` are those of the publishing: asking what is there,
    sending, reading back, naming.
    """

    repository: str
    base_name: str | None
    base_digest: str
    digest: str
    platforms: tuple[PlatformReport, ...]
    tags: tuple[str, ...]
    moved: tuple[str, ...]
    lacking: int
    base_lacking: int
    sent: Sent
    dry_run: bool
    seconds: float
    received: int = 0


def published_lines(report: Published) -> list[str]:
    """For a person."""
    lines = [
        f"base     {report.base_name or report.base_digest}",
        *([f"         {report.base_digest}"] if report.base_name else []),
    ]
    for image in report.platforms:
        lines += _image_lines(image)
    lines += [f"image    {report.digest}", *(f"tag      {tag}" for tag in report.tags)]
    return [printable(line, 2000) for line in [*lines, f"sent     {_sent(report)}"]]


def _image_lines(image: PlatformReport) -> list[str]:
    commit = f" (commit {image.commit})" if image.commit else ""
    lines = [
        f"platform {image.platform}",
        f"  vLLM   {image.vllm}{commit} in {image.root}",
        f"  base   {image.base_digest}",
    ]
    for number, before in enumerate(image.before):
        after = f", now {_counts(image.after[number])}" if image.after else ""
        lines.append(f"  patch  {before.patch}: {_counts(before)}{after}")
    files = (f"  file   {change.before.path}" for change in image.changes)
    return [*lines, *files, f"  image  {image.digest}"]


def _counts(verdict: Verdict) -> str:
    unguarded = len(verdict.unguarded)
    return (
        f"{verdict.status.value} ({unguarded} unguarded, {len(verdict.reads) - unguarded} guarded)"
    )


def _sent(report: Published) -> str:
    if not (report.lacking or report.base_lacking or report.moved):
        return "nothing: all of it was there already"
    if report.dry_run:
        return (
            f"nothing, this is a dry run: it would be {report.lacking:,} bytes, and up to "
            f"{report.base_lacking:,} of the base where it cannot be mounted"
        )
    return f"{report.sent.parts:,} bytes, and {report.sent.streamed:,} of the base"


def published_json(report: Published) -> dict[str, Any]:
    """As plain data; the files' bytes are left out, their digests are in."""
    whole = {field.name: getattr(report, field.name) for field in dataclasses.fields(report)}
    return {**whole, "platforms": [_image_json(image) for image in report.platforms]}


def _image_json(image: PlatformReport) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(image) if field.name != "changes"]
    files = [
        {"path": change.before.path, "target": change.target, "patches": change.patched}
        for change in image.changes
    ]
    plain = {name: getattr(image, name) for name in names}
    return {**plain, "platform": str(image.platform), "files": files}
