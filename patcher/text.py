"""Text as it may be shown: what others wrote made safe, and counts in words."""

from __future__ import annotations

import re

# What is before the host of an address, up to the last @: a password may hold a slash.
_CREDENTIALS = re.compile(r"(?<=://)[^/@:]*(?::.*)?@")

# Such before a host without a scheme, as in an image's name. A host has a dot, a port, or the name
# localhost: `git:clone@main` and `vllm:v1@sha256:0` have none.
_USER_INFO = re.compile(
    r"(?<![\w/:.@%-])(?!(?:git|oci|pypi):)(?P<kind>(?:registry|docker):)?"
    r"[^\s/:@'\"]{1,100}:[^\s/@]{1,200}@(?=(?!sha\d)(?:[\w-]{1,63}(?:\.\w|:\d)|localhost))"
)

# A parameter of an address, and the names of those that are a key: ?token=, &X-Amz-Signature=.
_QUERY = re.compile(r"(?P<start>[?&])(?P<name>[\w.-]{1,64})=[^&#\s'\"]+")
_SECRET = re.compile(
    r"(?i)token|secret|passw|signature|credential|^(?:api[-_.]?)?key$|^sig$|^auth$"
)

# What a CI runner takes for a command to itself: GitHub's at the beginning of a line, blanks
# before it or not; its older form, and those of Azure and TeamCity, anywhere in one.
_COMMAND = re.compile(r"^\s*:(?=:)|##(?=\w*\[)")


def printable(text: str, limit: int = 400) -> str:
    """Third-party text made safe for a terminal and a CI log: one line, no escape, no credential.

    What Python does not call printable is spelled out: control and separator characters, those
    that are invisible or reorder a line, and what replaces bytes that are not UTF-8.
    """
    shown = text
    if not shown.isprintable():
        shown = "".join(each if each.isprintable() else _spelled(each) for each in shown)
    if "://" in shown and "@" in shown:
        shown = re.sub(r"\S+", _without_credentials, shown)
    if "@" in shown:
        shown = _USER_INFO.sub(r"\g<kind>***@", shown)
    if "?" in shown:
        shown = _QUERY.sub(_without_secret, shown)
    shown = _COMMAND.sub(lambda found: found[0][:-1] + _spelled(found[0][-1]), shown)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def counted(number: int, one: str, more: str = "") -> str:
    """`1 place`, `2 places`; `more` is a plural that does not end in -s alone."""
    return f"{number} {one if number == 1 else more or f'{one}s'}"


def _spelled(character: str) -> str:
    """As an escape of Python's, also for what needs none."""
    escaped = character.encode("unicode_escape").decode()
    return escaped if escaped != character else f"\\x{ord(character):02x}"


def _without_credentials(word: re.Match[str]) -> str:
    # Up to the last @ only: then no part of a long text is looked at twice.
    before, at, after = word[0].rpartition("@")
    return _CREDENTIALS.sub("***@", before + at) + after


def _without_secret(parameter: re.Match[str]) -> str:
    name = parameter["name"]
    return f"{parameter['start']}{name}=***" if _SECRET.search(name) else parameter[0]
