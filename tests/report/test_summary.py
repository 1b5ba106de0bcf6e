"""Reports of many runs in one piece: what is not whole failed, and no text of others is markup."""

from __future__ import annotations

import html
import json
import os
from pathlib import Path
from typing import Any

import pytest

from patcher.errors import Exit
from patcher.report.summary import (
    CLEAN,
    DRY_RUN,
    FAILED,
    PUBLISHED,
    THERE,
    image_markdown,
    load,
    outputs,
    unreported,
)
from tests.commands import run

DIGEST = f"sha256:{'ab' * 32}"


def verdict(status: str, needed: int, clean: int) -> dict[str, Any]:
    counts = {"needed": needed, "clean": clean}
    return {"patch": "kv-b-proj-dtype", "status": status, **counts}


def published(**changed: Any) -> dict[str, Any]:
    image = {
        "vllm": "0.23.0",
        "before": [verdict("needed", 1, 1)],
        "after": [verdict("clean", 0, 2)],
    }
    return {
        "command": "image",
        "repository": "ghcr.io/owner/patched",
        "base_name": "docker.io/vllm/vllm-openai:v0.23.0",
        "base_digest": DIGEST,
        "digest": DIGEST,
        "platforms": [image, {**image, "vllm": "0.23.0+cu130"}],
        "tags": ["ghcr.io/owner/patched:0.23.0-abc", "ghcr.io/owner/patched:0.23.0-patched"],
        "moved": ["ghcr.io/owner/patched:0.23.0-abc"],
        "sent": {"parts": 15_000, "streamed": 2_000_000},
        "dry_run": False,
        "seconds": 1.25,
        **changed,
    }


def failure(kind: str, **more: Any) -> dict[str, Any]:
    said = {"kind": kind, "problem": "it | went\n<b>wrong</b>", "next_step": "Try @all, #1."}
    return {"command": "error", "error": said, "exit": 3, **more}


def file(folder: Path, document: Any) -> Path:
    path = folder / f"{len(list(folder.iterdir()))}.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


NOTHING = {"parts": 0, "streamed": 0}


@pytest.mark.parametrize(
    ("document", "outcome"),
    [
        (published(), PUBLISHED),
        (published(moved=[], sent=NOTHING), THERE),
        (published(sent=NOTHING), PUBLISHED),
        (published(moved=[]), PUBLISHED),
        (published(dry_run=True), DRY_RUN),
        (failure("AlreadyClean"), CLEAN),
        (failure("AccessDenied"), FAILED),
        (failure("RewriteRefused"), FAILED),
        ("", FAILED),
        ('{"command": "image"', FAILED),
        ({"command": "image"}, FAILED),
        ({"command": "verify"}, FAILED),
        (published(seconds=10**400), FAILED),
        ([], FAILED),
        ({**published(), "platforms": [{}]}, FAILED),
        (published(seconds="x"), FAILED),
        (published(sent={"parts": "many"}), FAILED),
        (published(tags=5), FAILED),
        ("[" * 100_000, FAILED),
    ],
)
def test_what_became_of_a_base(tmp_path: Path, document: Any, outcome: str) -> None:
    assert load(file(tmp_path, document)).outcome == outcome


def test_a_base_that_was_called_by_its_version_is_one_base(tmp_path: Path) -> None:
    document = failure("AlreadyClean", arguments=["image", "0.23.0"])
    document["error"]["base"] = "docker.io/vllm/vllm-openai:v0.23.0"
    images = [{"original": {"reference": document["error"]["base"]}}]
    row = load(file(tmp_path, document))
    assert unreported(file(tmp_path, {"images": images}), [row]) == []
    document["error"]["base"] = None
    assert load(file(tmp_path, document)).base == "0.23.0"


def test_a_report_that_is_not_there_is_a_failure(tmp_path: Path) -> None:
    row = load(tmp_path / "none.json")
    assert (row.outcome, row.base) == (FAILED, str(tmp_path / "none.json"))


def test_platforms_that_agree_are_told_once(tmp_path: Path) -> None:
    text = image_markdown([load(file(tmp_path, published()))])
    assert "1 published." in text
    assert (
        "| `docker.io/vllm/vllm-openai:v0.23.0` | `published` | `0.23.0`<br>`0.23.0+cu130` "
        "| `kv-b-proj-dtype: needed (1 of 2 places)` | `kv-b-proj-dtype: clean (2 places)` "
        "| 2,015,000 | 1.2 |"
    ) in text
    assert f"| `0.23.0-abc`<br>`0.23.0-patched` | `{DIGEST}` |" in text


def test_a_patch_for_other_versions_is_not_told(tmp_path: Path) -> None:
    document = published()
    for image in document["platforms"]:
        for which in ("before", "after"):
            image[which].append({**verdict("unknown", 1, 0), "patch": "late", "outside": True})
    assert "late" not in image_markdown([load(file(tmp_path, document))])


@pytest.mark.parametrize("way", ["dockerfile", "load", "context"])
def test_no_bytes_are_told_where_nobody_counts_them(tmp_path: Path, way: str) -> None:
    row = load(file(tmp_path, published(sent=NOTHING, moved=[], way=way)))
    assert (row.outcome, row.sent) == (PUBLISHED, None)


def test_what_others_wrote_is_no_markup(tmp_path: Path) -> None:
    arguments = ["image", "docker.io/`a`|b", "--to", "x"]
    text = image_markdown([load(file(tmp_path, failure("AccessDenied", arguments=arguments)))])
    assert "<b>" not in text
    # GitHub links mentions and issues in the rendered text, entities decoded.
    assert "@all" not in html.unescape(text)
    assert "#1" not in html.unescape(text)
    [item] = [line for line in text.splitlines() if line.startswith("- ")]
    assert item.startswith("- <code>docker")
    assert "|" not in item


def test_a_base_without_a_report_has_failed(tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    file(tmp_path / "reports", published())
    listed = [published()["base_name"], "docker.io/vllm/vllm-openai:v0.24.0"]
    images = [{"original": {"reference": each}} for each in listed]
    bases = file(tmp_path, {"images": images})
    ran = run("summary", "--bases", bases, tmp_path / "reports")
    assert ran.returncode == Exit.UNDECIDED
    assert "1 failed, 1 published." in ran.stdout
    assert "- `docker.io/vllm/vllm-openai:v0.24.0`: no report came of it" in ran.stdout
    assert run("summary", "--bases", bases).stdout.count("no report came of it") == 2
    for wrong in ("[]", '{"images": [1]}', "[" * 100_000):
        bases.write_text(wrong)
        ran = run("summary", "--bases", bases)
        assert (ran.returncode, ran.stdout) == (Exit.UNDECIDED, "")
        assert "is not a list of bases" in ran.stderr


def test_outputs_are_those_of_one_report(tmp_path: Path) -> None:
    assert outputs(load(file(tmp_path, published()))) == (
        f"outcome=published\npublished=true\nrepository=ghcr.io/owner/patched\ndigest={DIGEST}\n"
    )
    lines = outputs(load(file(tmp_path, failure("AlreadyClean")))).splitlines()
    assert lines == ["outcome=no patch needed", "published=false", "repository=", "digest="]
    ran = run("summary", "--format", "outputs", "a.json", "b.json", cwd=tmp_path)
    assert ran.returncode == Exit.USAGE


def test_one_failure_fails_the_sum_and_hides_nothing(tmp_path: Path) -> None:
    good = [file(tmp_path, published()), file(tmp_path, failure("AlreadyClean"))]
    assert run("summary", *good).returncode == Exit.OK
    ran = run("summary", file(tmp_path, ""), *good)
    assert ran.returncode == Exit.UNDECIDED
    assert "1 failed, 1 published, 1 no patch needed." in ran.stdout
    assert "failed: " in ran.stderr


@pytest.mark.parametrize("name", ["repository", "digest"])
@pytest.mark.parametrize("text", ["x\ndigest=y", "x\ry", "x\u2028y", "x y", 1, None, ["x"]])
def test_no_report_sets_an_output_of_its_own(tmp_path: Path, name: str, text: object) -> None:
    row = load(file(tmp_path, published(**{name: text or [text]})))
    assert row.outcome == FAILED
    assert outputs(row).splitlines() == [
        "outcome=failed",
        "published=false",
        "repository=",
        "digest=",
    ]


def test_a_report_without_end_and_a_pipe_are_failures(tmp_path: Path) -> None:
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.json")
    with (tmp_path / "large.json").open("wb") as large:
        large.truncate(65 << 20)
    rows = [load(path) for path in sorted(tmp_path.iterdir())]
    assert [row.outcome for row in rows] == [FAILED] * 3
    assert "it has more than 64 MiB" in rows[0].reason
    assert "it is not a regular file" in rows[1].reason
