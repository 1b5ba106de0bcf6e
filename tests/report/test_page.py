"""The HTML page, in a real browser: what a person sees, in light and dark, on a phone."""

from __future__ import annotations

import dataclasses
import html
import json
import re
import shutil
import subprocess
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from patcher.landed.claims import check
from patcher.landed.timeline import timeline
from patcher.report.landed import Answer
from patcher.report.page import page
from patcher.rules.verdict import Status
from patcher.web.github import VLLM
from tests.conftest import missing
from tests.landed.findings import PATCH, all_releases, made, real, story
from tests.report.test_landed import hostile_answer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from patcher.landed import Finding

DARK = "--blink-settings=preferredColorScheme=0"

# Added to a copy of the page; the page itself holds no script and forbids any.
PROBE = """
<script>
const seen = {};
const luminance = colour => {
  const [r, g, b] = colour.match(/[0-9.]+/g).slice(0, 3).map(Number).map(value => {
    value /= 255;
    return value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = element => {
  for (; element; element = element.parentElement) {
    const colour = getComputedStyle(element).backgroundColor;
    if (!/, 0\\)$/.test(colour)) return colour;
  }
  return "rgb(255, 255, 255)";
};
const contrast = element => {
  const pair = [getComputedStyle(element).color, behind(element)].map(luminance).sort();
  return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
};
seen.width = document.documentElement.scrollWidth;
seen.window = innerWidth;
seen.page = getComputedStyle(document.body).backgroundColor;
seen.words = [...document.querySelectorAll("td b")].map(each => each.textContent);
const texts = document.querySelectorAll("p, th, small, td b, summary, .quiet, dt, dd, li");
seen.contrast = Math.min(...[...texts].map(contrast));
seen.hidden = [...document.querySelectorAll("dd")].every(each => !each.checkVisibility());
document.querySelectorAll("summary").forEach(each => each.click());
seen.shown = [...document.querySelectorAll("dd")].every(each => each.checkVisibility());
seen.open = document.documentElement.scrollWidth;
seen.range = [...document.querySelectorAll(".range")].map(each => each.checkVisibility());
seen.head = [...document.querySelectorAll("thead")].map(each => each.checkVisibility());
const note = document.createElement("pre");
note.id = "seen";
note.textContent = JSON.stringify(seen);
document.body.append(note);
</script>
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """`browser(file, *flags)` -> the document as chromium has it after loading."""
    program = shutil.which("chromium")
    if program is None:
        missing("chromium is not installed (apt-get install chromium)")
    profile = tmp_path_factory.mktemp("profile")

    def load(file: Path, *flags: str) -> str:
        quiet = ("--no-first-run", "--disable-background-networking", "--disable-sync")
        sealed = ("--disable-component-update", f"--user-data-dir={profile}", "--hide-scrollbars")
        done = subprocess.run(
            [program, "--headless", "--no-sandbox", "--disable-gpu", *quiet, *sealed, *flags,
             "--dump-dom", f"file://{file}"],
            capture_output=True,
            check=True,
            timeout=120,
        )  # fmt: skip
        return done.stdout.decode()

    return load


def look(browser: Callable[..., str], text: str, folder: Path, *flags: str) -> dict[str, Any]:
    """What the probe sees in a page."""
    policy = re.search(r"<meta http-equiv=.*\n", text)
    assert policy
    file = folder / "page.html"
    file.write_text(text.replace(policy[0], "").replace("</body>", f"{PROBE}</body>"))
    found = re.search('<pre id="seen">(.*?)</pre>', browser(file, *flags))
    assert found
    seen: dict[str, Any] = json.loads(html.unescape(found[1]))
    return seen


def two_patches(findings: Sequence[Finding]) -> Answer:
    """The real releases, and a second patch whose bands lie elsewhere."""
    first = timeline(PATCH, findings)
    other = dataclasses.replace(PATCH, name="another-patch", affected=(">=0.19",))
    statuses = dict.fromkeys(("0.15.0", "0.15.1"), Status.ABSENT) | {"0.22.0": Status.UNKNOWN}
    second = timeline(
        other,
        [
            made(str(each.version), statuses.get(str(each.version), each.verdict.status))
            for each in findings
        ],
    )
    return Answer((first, second), (check(first), check(second)))


@all_releases
@pytest.mark.parametrize("flags", [(), (DARK,)], ids=["light", "dark"])
@pytest.mark.parametrize("size", ["1280,900", "500,900"], ids=["desk", "phone"])
def test_the_page_is_readable(
    browser: Callable[..., str],
    release_file: Callable[..., bytes],
    tmp_path: Path,
    size: str,
    flags: tuple[str, ...],
) -> None:
    text = page(two_patches(real(release_file)))
    seen = look(browser, text, tmp_path, f"--window-size={size}", *flags)
    assert (seen["page"] == "rgb(255, 255, 255)") is not bool(flags)
    assert seen["words"][:6] == ["needed", "needed", "clean", "needed", "needed", "clean"]
    assert seen["contrast"] >= 4.5  # WCAG 2.2, AA
    assert seen["width"] <= seen["window"]
    assert seen["open"] <= seen["window"]
    narrow = size.startswith("500")
    assert set(seen["range"]) == {narrow}
    assert seen["head"] == [not narrow]


@all_releases
def test_the_evidence_is_one_click_away(
    browser: Callable[..., str], release_file: Callable[..., bytes], tmp_path: Path
) -> None:
    seen = look(browser, page(two_patches(real(release_file))), tmp_path)
    assert (seen["hidden"], seen["shown"]) == (True, True)


def test_hostile_text_makes_no_element_and_runs_nothing(
    browser: Callable[..., str], tmp_path: Path
) -> None:
    file = tmp_path / "page.html"
    file.write_text(page(hostile_answer()))
    dom = browser(file)
    assert not re.findall("<(?:script|img|iframe|link|object)[ >]", dom)
    assert set(re.findall('<a href="(.*?)[0-9]+"', dom)) <= {f"{VLLM}/issues/", f"{VLLM}/pull/"}
    assert "{{ 7*7 }}" in dom
    assert "49" not in re.sub("<style>.*?</style>|<a .*?</a>", "", dom, flags=re.DOTALL)
    assert html.escape("<script>alert(1)</script>", quote=False) in dom
    assert "## head\\u202e" in dom
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e\ufffd]", dom)


def test_the_page_asks_for_nothing() -> None:
    before = datetime.now(UTC)
    text = page(Answer((timeline(PATCH, story("ncau")),)))
    assert "default-src 'none'" in text
    days = [f"Read on {now:%Y-%m-%d} (UTC)." for now in (before, datetime.now(UTC))]
    assert any(day in text for day in days)
    links = re.findall(r'<a href="([^"]*)"', text)
    assert [each.rpartition("/")[2] for each in links] == [str(each[0]) for each in PATCH.upstream]
    assert all(each.startswith("https://github.com/vllm-project/vllm/") for each in links)
    rest = re.sub(r'<a href="[^"]*"', "", text)
    assert not re.search(r"src=|href=|url\(|@import|<script|https?:", rest)


@all_releases
def test_columns_are_the_runs_over_which_no_patch_changes(
    release_file: Callable[..., bytes],
) -> None:
    text = page(two_patches(real(release_file)))
    heads = re.findall('<th scope="col"><span>(.*?)</span>', text)
    assert heads == [
        "0.15.0 - 0.15.1", "0.16.0", "0.17.0 - 0.17.1", "0.18.0 - 0.19.1", "0.20.0 - 0.21.0",
        "0.22.0", "0.22.1 - 0.24.0", "0.25.0 - 0.27.1", "0.28.0 - 0.33.0",
    ]  # fmt: skip
    rows = [re.findall('colspan="([0-9]+)"', row) for row in text.split('<th scope="row">')[1:]]
    assert [sum(map(int, row)) for row in rows] == [9, 9]


@all_releases
def test_releases_with_the_same_lines_share_their_evidence(
    release_file: Callable[..., bytes],
) -> None:
    text = page(Answer((timeline(PATCH, real(release_file)),)))
    regressed = text.split("</dl>")[3]
    labels = re.findall("<dt>(.*?) <", regressed)
    assert labels == ["0.20.0 - 0.20.2", "0.21.0", "0.22.0 - 0.23.0", "0.24.0"]
    assert "pypi:" not in regressed


def test_an_upload_date_stands_beside_its_release() -> None:
    findings = [
        dataclasses.replace(each, uploaded=datetime(2026, 3, day, tzinfo=UTC))
        for each, day in zip(story("nn"), (1, 9), strict=True)
    ]
    assert "2026-03-01 - 2026-03-09" in page(Answer((timeline(PATCH, findings),)))


def test_what_a_patch_was_not_asked_of_is_said_to_be_unread() -> None:
    other = dataclasses.replace(PATCH, name="another-patch")
    text = page(Answer((timeline(PATCH, story("nc")), timeline(other, story("n")))))
    assert text.count("not read") == 1


def test_an_empty_answer_is_a_page_too() -> None:
    assert "<table>" not in page(Answer())
