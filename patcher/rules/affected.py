"""What a patch claims in `affected`: the versions that need it, as specifiers (PEP 440)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import Version

from patcher.errors import BrokenCatalogue

if TYPE_CHECKING:
    from collections.abc import Iterable

    from patcher.rules.patch import Patch


def specifiers(patch: Patch) -> tuple[SpecifierSet, ...]:
    """The patch's claim, parsed. Raises `BrokenCatalogue`."""
    try:
        return tuple(SpecifierSet(text) for text in patch.affected)
    except InvalidSpecifier as error:
        raise BrokenCatalogue(
            f"the patch {patch.name} claims what is not a version specifier: {error}",
            next_step="Mend `affected` in its file; PEP 440 has the form.",
        ) from error


def claimed(claims: Iterable[SpecifierSet], version: Version) -> bool:
    """Whether a version is claimed. A pre-release is one too, but not one of the version that a
    claim ends before: whether that has the fix yet is not said (PEP 440, "<" is exclusive).
    """
    return any(each.contains(version, prereleases=True) for each in claims)


def may_need(claims: Iterable[SpecifierSet], version: Version) -> bool:
    """Whether a version is claimed, or is a pre-release of one that a claim ends before.

    0.27.0rc1 has most of 0.26.0's code. Its content says whether it needs the patch.
    """
    known = list(claims)
    earlier = Version(version.base_version)
    ends = {each.version for claim in known for each in claim if each.operator == "<"}
    is_before_an_end = version.is_prerelease and any(Version(end) == earlier for end in ends)
    return is_before_an_end or claimed(known, version)


def landings(patch: Patch) -> tuple[Version | None, ...]:
    """The version that each claim ends before, which has the fix; None for one without such an end.

    Raises `BrokenCatalogue`.
    """
    return tuple(
        min((Version(each.version) for each in claim if each.operator == "<"), default=None)
        for claim in specifiers(patch)
    )


def quoted(claim: Iterable[str]) -> str:
    """A claim for people."""
    return " or ".join(claim) or "nothing"
