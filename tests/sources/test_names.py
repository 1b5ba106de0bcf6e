"""A tree that is known by its paths alone: what is in each of its folders."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from patcher.oci.rootfs.tree import Kind
from patcher.sources.names import NameTree

# "-" and "." come before "/", "0" comes after it.
PATHS = st.lists(st.text("a-./0", max_size=6), max_size=8)


def plainly(paths: list[str], folder: str) -> dict[str, Kind]:
    """Every path that begins with the folder, looked at by itself."""
    found: dict[str, Kind] = {}
    for path in paths:
        if path.startswith(folder) and path != folder:
            name, *below = path.removeprefix(folder).split("/")
            found[name] = Kind.FOLDER if below or name in found else Kind.FILE
    return found


@given(PATHS, st.sampled_from(["", "a", "a/a", "-", "0", "a/."]))
def test_a_folder_has_what_the_paths_say(paths: list[str], folder: str) -> None:
    tree = NameTree(paths)
    expected = plainly(paths, f"{folder}/" if folder else "")
    assert tree.names(f"/{folder}") == sorted(expected)
    assert {name: tree.kind(f"{folder}/{name}") for name in expected} == expected
