"""What was made of an image: lines for a person, plain data for JSON."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from patcher.places.place import UNCOUNTED
from patcher.report.diff import shown_diff
from patcher.report.document import copy_json
from patcher.report.verdicts import COLOURS, status_words, version_note
from patcher.rules.verdict import Status
from patcher.terminal import styled
from patcher.text import printable

if TYPE_CHECKING:
    from patcher.jobs.demo import Demo
    from patcher.jobs.image import ImageReport, Report

_WAYS = {
    "dockerfile": "the daemon built the rendered Dockerfile",
    "load": "the daemon loaded the thin layer, on the base's that it has",
    "context": "the Dockerfile and its files were written; the tags are for what is built of them",
}


def image_lines(report: Report) -> list[str]:
    """What the job did, for a person."""
    lines = [
        f"base     {report.base_name or report.base_digest}",
        *([f"         {report.base_digest}"] if report.base_name else []),
    ]
    for image in report.platforms:
        lines += _platform_lines(image)
    lines += [f"image    {report.digest}", *(f"tag      {tag}" for tag in report.tags)]
    lines += [f"proof    {report.proof}"] if report.proof else []
    lines += [f"way      {_WAYS[report.way]}"] if report.way in _WAYS else []
    lines += [f"sent     {_sent(report)}"] if report.way not in UNCOUNTED else []
    return [_report_line(printable(line, 2000)) for line in lines]


def _report_line(line: str) -> str:
    """What came of it in green, and what to call it by in bold."""
    if line.startswith("tag "):
        return styled(line, bold=True)
    before, now, after = line.rpartition(", now clean")
    return f"{before}, now {styled(f'clean{after}', COLOURS[Status.CLEAN])}" if now else line


def _platform_lines(image: ImageReport) -> list[str]:
    commit = f" (commit {image.commit})" if image.commit else ""
    note = version_note(image.vllm)
    lines = [
        f"platform {image.platform}",
        f"  vLLM   {image.vllm}{commit} in {image.root}",
        *([f"         {note}"] if note else []),
        f"  base   {image.base_digest}",
    ]
    for number, before in enumerate(image.before):
        applied = image.after and not before.outside
        after = f", now {status_words(image.after[number])}" if applied else ""
        lines.append(f"  patch  {before.patch}: {status_words(before)}{after}")
    files = (f"  file   {change.before.path}" for change in image.changes)
    return [*lines, *files, f"  image  {image.digest}"]


def _sent(report: Report) -> str:
    if not (report.lacking or report.base_lacking or report.moved):
        return "nothing: all of it was there already"
    if not (report.lacking or report.base_lacking):
        said = "the tags alone: the image was there already"
    elif report.dry_run:
        said = (
            f"{report.lacking:,} bytes, and up to {report.base_lacking:,} of the base where it "
            "cannot be mounted"
        )
    else:
        streamed = report.sent.streamed
        return f"{report.sent.parts:,} bytes{f', and {streamed:,} of the base' if streamed else ''}"
    return f"nothing, this is a dry run: it would be {said}" if report.dry_run else said


def image_json(report: Report) -> dict[str, Any]:
    """As plain data; the files' bytes are left out, their digests are in."""
    whole = {field.name: getattr(report, field.name) for field in dataclasses.fields(report)}
    return {**whole, "platforms": [_platform_json(image) for image in report.platforms]}


def _platform_json(image: ImageReport) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(image) if field.name != "changes"]
    files = [
        {"path": change.before.path, "target": change.target, "patches": change.patched}
        for change in image.changes
    ]
    plain = {name: getattr(image, name) for name in names}
    copies = [copy_json(str(image.platform), copy) for copy in image.copies]
    return {**plain, "platform": str(image.platform), "copies": copies, "files": files}


def demo_lines(demo: Demo) -> list[str]:
    """The demo's diff, and its report."""
    return [
        *shown_diff(demo.diff.rstrip("\n")),
        "",
        *image_lines(demo.report),
        printable(f"layout   {demo.layout}", 5000),
    ]


def demo_json(demo: Demo) -> dict[str, Any]:
    """A demo's result as plain data."""
    return {
        **image_json(demo.report),
        "diff": demo.diff,
        "layout": demo.layout,
        "bytes_read": demo.bytes_read,
        "wheel_size": demo.wheel_size,
    }
