"""Several rules as one: a fix of several parts, or a fix that has one form for each span.

`Together` is all or nothing: a fix of which one part is upstream's and another our own. `FirstOf`
takes the first that says anything: code that was rewritten between two releases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from patcher.errors import FileAbsent, NotPython, RewriteRefused
from patcher.rules.rule import Explains, Found, NeedsUpstream, Words, proof_failed

if TYPE_CHECKING:
    from patcher.rules.rule import Files, Place, Rewritten, Rule, Upstream


def _handed(rules: tuple[Rule, ...], upstream: Upstream) -> tuple[Rule, ...]:
    return tuple(
        rule.with_upstream(upstream) if isinstance(rule, NeedsUpstream) else rule for rule in rules
    )


def _explained(rules: tuple[Rule, ...]) -> list[str]:
    return [line for rule in rules if isinstance(rule, Explains) for line in rule.explain()]


@dataclass(frozen=True, slots=True)
class Together:
    """The rule: all parts, each in files of its own, or none."""

    parts: tuple[Rule, ...]

    words = Words(
        needed="lacking", clean="fixed", why="lacks the fix", none="the fix is in", told="place"
    )

    def with_upstream(self, upstream: Upstream) -> Together:
        """The same rule, its parts able to read upstream's artifacts."""
        return replace(self, parts=_handed(self.parts, upstream))

    def find(self, files: Files) -> Found:
        """All parts' places; unknown where one part is made and another is not."""
        found = [part.find(files) for part in self.parts]
        places = tuple(place for each in found for place in each.places)
        for each in found:
            if each.unknown is not None:
                return Found(places, unknown=each.unknown)
        absent = [each.absent for each in found if each.absent is not None]
        if absent and len(absent) < len(found):
            return Found(places, unknown=f"{absent[0]}, but another part of the fix is there")
        if absent:
            return Found(absent=absent[0])
        # A part without a place, such as a guard of what the file does not read, says nothing.
        lacks = {any(place.needed for place in each.places) for each in found if each.places}
        if len(lacks) > 1:
            return Found(places, unknown=_half(found))
        return Found(places)

    def rewrite(self, files: Files) -> Mapping[str, Rewritten]:
        """What all parts make of their files. Raises what they raise."""
        made: dict[str, Rewritten] = {}
        for part in self.parts:
            for path, one in part.rewrite(files).items():
                if path in made:
                    raise RewriteRefused(
                        f"two parts of the fix change {path}",
                        next_step="Make one rule of them, or two patches.",
                    )
                made[path] = one
        return made

    def prove(self, before: Files, after: Mapping[str, Rewritten]) -> None:
        """Each part proves its own files. Raises `ProofFailed`."""
        proven: set[str] = set()
        for part in self.parts:
            own = part.rewrite(before)
            part.prove(before, {path: after[path] for path in own if path in after})
            proven |= own.keys()
        if proven != after.keys():
            raise proof_failed("a file changed that no part of the fix is about")

    def explain(self) -> tuple[str, ...]:
        """What each part does."""
        return (*_explained(self.parts), "all of these or none")


@dataclass(frozen=True, slots=True)
class FirstOf:
    """The rule: the first of several forms of a fix that finds its place."""

    forms: tuple[Rule, ...]

    @property
    def words(self) -> Words:
        """What the first form's places are called."""
        return self.forms[0].words

    def with_upstream(self, upstream: Upstream) -> FirstOf:
        """The same rule, its forms able to read upstream's artifacts."""
        return replace(self, forms=_handed(self.forms, upstream))

    def _choose(self, files: Files) -> tuple[Rule, Found]:
        """The first form with places, else the first that is unknown, else the first.

        One of which a half is made and a half is not is the answer before any other: a form of
        fewer places would call it clean. So is one that has a place left where the first is clean.
        """
        found = [(form, _find(form, files)) for form in self.forms]
        for form, each in found:
            if each.unknown is not None and len({place.needed for place in each.places}) > 1:
                return form, each
        for form, each in found:
            if each.absent is None and each.unknown is None:
                rest = [other for _, other in found if other is not each and _lacks(other)]
                if rest and each.places and not _lacks(each):
                    return form, Found(each.places, unknown=_half([each, *rest]))
                return form, each
        return next((each for each in found if each[1].unknown is not None), found[0])

    def find(self, files: Files) -> Found:
        """What the form that fits finds; unknown where it is made by half."""
        return self._choose(files)[1]

    def rewrite(self, files: Files) -> Mapping[str, Rewritten]:
        """What the form that fits makes of the files. Raises what it raises."""
        return self._choose(files)[0].rewrite(files)

    def prove(self, before: Files, after: Mapping[str, Rewritten]) -> None:
        """The form that fits proves it. Raises `ProofFailed`."""
        self._choose(before)[0].prove(before, after)

    def explain(self) -> tuple[str, ...]:
        """What each form does. Several may look alike: long code is cut."""
        forms = dict.fromkeys(_explained(self.forms))
        return (*forms, "of these, the first whose code is there")


def _lacks(found: Found) -> bool:
    return any(place.needed for place in found.places)


def _half(found: Sequence[Found]) -> str:
    """Which place has the fix and which lacks it, of findings that have both."""
    has = next(each for each in found if each.places and not _lacks(each)).places[0]
    lacks = next(place for each in found for place in each.places if place.needed)
    return f"half of the fix: {_name(has)} has it, {_name(lacks)} lacks it"


def _name(place: Place) -> str:
    return place.function or place.target


def _find(rule: Rule, files: Files) -> Found:
    try:
        return rule.find(files)
    except FileAbsent as error:
        return Found(absent=error.problem)
    except NotPython as error:
        return Found(unknown=error.problem)
