"""The OCI image layout on disk (image-spec 1.0 and 1.1, image-layout.md): blobs, and names.

A blob is written under its digest, in one step; index.json, which gives the names, is written
last. Whatever interrupts it, every name leads to something that is all there.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from patcher.errors import BadReference, BrokenImage, Unreadable
from patcher.files import (
    is_there,
    locked,
    new_folder,
    open_file,
    read_file,
    replacing,
    write_atomically,
)
from patcher.oci.blobs import MOST_BYTES, Moved, Verified, read_blob
from patcher.oci.image import Family, Image, documents_of, load_family
from patcher.oci.model import (
    OCI_INDEX,
    REF_NAME,
    Descriptor,
    broken,
    dump_json,
    parse_index,
    parse_json,
    read_descriptor,
)
from patcher.oci.referrer import listed
from patcher.oci.rootfs.layers import StoredImage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from patcher.oci.blobs import Blobs, Watch
    from patcher.oci.model import Index, Json, Part
    from patcher.oci.reference import Platform
    from patcher.oci.referrer import Artifact

_MARKER, _VERSION = "oci-layout", "1.0.0"

_CHUNK = 1 << 20

# Of all images in it, each counted once: some 1,000 of vLLM's.
_MOST_DOCUMENTS = 64 << 20

# image-spec, annotations.md: what a reference's name in a layout may be.
_PART = r"[A-Za-z0-9]+(?:(?:[-._:@+]|--)[A-Za-z0-9]+)*"
_NAME = re.compile(rf"{_PART}(?:/{_PART})*")


@dataclass(slots=True)
class Layout:
    """The folder as a store of blobs. `checked` are the digests of those that were seen whole."""

    path: Path
    checked: set[str] = field(default_factory=set)

    def open(self, descriptor: Descriptor, start: int = 0, size: int | None = None) -> BinaryIO:
        """See `Blobs`."""
        del size
        try:
            stream = open_file(self._blob(descriptor))
        except FileNotFoundError as error:
            raise broken(f"{self.path} has no blob {descriptor.digest}") from error
        except OSError as error:
            raise _unreadable(self.path, error) from error
        stream.seek(start)
        return stream

    def put(self, descriptor: Descriptor, data: bytes) -> None:
        """See `Store`."""
        write_atomically(self._blob(descriptor), data, within=self.path)

    def check(self, descriptors: Sequence[Descriptor]) -> None:
        """See `Blobs`. A blob's bytes are read once in this layout's life."""
        for descriptor in descriptors:
            if descriptor.digest not in self.checked:
                with self.open(descriptor) as raw:
                    Verified(raw, descriptor).finish()
                self.checked.add(descriptor.digest)

    def holds(self, descriptor: Descriptor) -> bool:
        """Is the blob there, whole? See `check`."""
        try:
            self.check([descriptor])
        except BrokenImage:
            return False
        return True

    def lacking(self, descriptors: Sequence[Descriptor]) -> list[Descriptor]:
        """See `Store`: damaged ones too. What is read for it, `check` need not read again."""
        return [each for each in descriptors if not self.holds(each)]

    def fetch(self, descriptors: Sequence[Descriptor], source: Blobs, watch: Watch) -> int:
        """See `Store`. One after the other: an interrupt finds one file to take away.

        A layout that is missing is made now: what fails earlier leaves nothing behind, and what
        fails before the first blob is there takes it away again.
        """
        with _undone_without_blobs(self.path):
            create_layout(self.path)
            return sum(self._fetch(descriptor, source, watch) for descriptor in descriptors)

    def _fetch(self, descriptor: Descriptor, source: Blobs, watch: Watch) -> int:
        """Stream it to a file beside, which takes the blob's name when it is whole."""
        moved = Moved(descriptor, watch)
        with (
            source.open(descriptor) as raw,
            replacing(self._blob(descriptor), within=self.path) as file,
        ):
            stream = Verified(raw, descriptor)
            for data in _chunks(stream):
                file.write(data)
                moved.add(len(data))
            stream.finish()
        # Hashed while it was written: to read 9 GB back would prove the disk, not the image.
        self.checked.add(descriptor.digest)
        return descriptor.size

    def entries(self) -> tuple[Descriptor, ...]:
        """What index.json leads to; the annotation `REF_NAME` holds a name."""
        return self._index().images

    def named(self, name: str) -> str | None:
        """The digest that a name leads to; None where nothing has it. Raises `BadReference`."""
        _check_name(name)
        if not is_there(self.path / "index.json"):
            return None
        found = [each.digest for each in self.entries() if each.annotations.get(REF_NAME) == name]
        return found[0] if found else None

    def name(self, root: Part, names: Sequence[str]) -> None:
        """Let these names lead to `root`, all in one step. Raises `BadReference`, `Unwritable`."""
        for name in names:
            _check_name(name)
        with _locked(self.path):
            document = dict(self._index().document)
            entries = document["manifests"]
            for name in names:
                _set_name(entries, name, root.descriptor)
            self._write_index(document)

    def referrers(self, subject: str, kind: str) -> list[Descriptor]:
        """See `Referred`. Such a manifest is in index.json, without a name."""
        listing = listed(parse_json(self._read("index.json"), "index.json"), kind)
        return [each for each in listing if _is_about(self, each, subject)]

    def attach(self, artifact: Artifact) -> int:
        """See `Store`."""
        for blob in (*artifact.blobs, artifact.manifest):
            if not self.holds(blob.descriptor):
                self.put(blob.descriptor, blob.data)
        with _locked(self.path):
            document = parse_json(self._read("index.json"), "index.json")
            known = {each.digest for each in listed(document, artifact.kind)}
            if artifact.digest in known:
                return 0
            document["manifests"].append(artifact.entry)
            self._write_index(document)
        return artifact.size

    def _index(self) -> Index:
        try:
            return parse_index(self._read("index.json"), OCI_INDEX)
        except BrokenImage as error:
            raise error.at(str(self.path / "index.json")) from error

    def _write_index(self, document: Json) -> None:
        index = self.path / "index.json"
        write_atomically(index, dump_json(document), within=self.path)

    def _read(self, name: str) -> bytes:
        try:
            return read_file(self.path / name, MOST_BYTES)
        except OSError as error:
            raise _unreadable(self.path / name, error) from error

    def _blob(self, descriptor: Descriptor) -> Path:
        return self.path / "blobs" / descriptor.digest.replace(":", "/")


def _is_about(layout: Layout, manifest: Descriptor, subject: str) -> bool:
    document = parse_json(read_blob(layout, manifest), manifest.digest)
    return read_descriptor(document.get("subject"), f"{manifest.digest}: subject").digest == subject


def split_spec(spec: str) -> tuple[Path, str | None]:
    """Folder and name of `DIR` or `DIR:NAME`. A colon is the name's, unless such a folder is
    there.
    """
    folder, colon, name = spec.rpartition(":")
    return (Path(folder), name) if colon and not is_there(Path(spec)) else (Path(spec), None)


def only_named(layout: Layout, name: str | None) -> Descriptor:
    """The one image or index of a layout that has this name; the only one at all for None.

    Raises `BadReference` where none or several fit, naming those that are there.
    """
    named = [(each.annotations.get(REF_NAME), each) for each in layout.entries()]
    fitting = {each.digest: each for key, each in named if name in (None, key)}
    there = sorted({key or _NAMELESS for key, _ in named})
    asking = f"Give the name of one, as oci:{layout.path}:NAME"
    return _only(layout.path, fitting, repr(name) if name else "", there, asking)


_NAMELESS = "one without a name"

_One = TypeVar("_One")


def _only(
    path: Path, fitting: Mapping[str, _One], wanted: str, there: Sequence[str], asking: str
) -> _One:
    """The one that fits what is `wanted`, which is empty where nothing was said.

    Raises `BadReference` where it is not one, with all that are `there` and how to ask for one.
    """
    if len(fitting) == 1:
        return next(iter(fitting.values()))
    if not there:
        raise BadReference(f"{path} holds no image", next_step="Name another layout.")
    said = f": {'several images are' if fitting else 'no image is'} {wanted}"
    raise BadReference(
        f"{path}{said if wanted else ' holds several images'}",
        next_step=f"{asking}. It holds: {', '.join(there)}.",
    )


def open_image(folder: Path, name: str | None, platform: Platform | None) -> StoredImage:
    """The one image in the layout at `folder` of that name and platform; None leaves it open.

    Raises `BadReference` where none or several fit, `Unreadable`, `BrokenImage`.
    """
    layout = existing_layout(folder)
    every: list[tuple[Descriptor, Image]] = []
    families: dict[str, Family] = {}
    size = 0
    for root in layout.entries():
        if root.digest not in families:
            families[root.digest] = load_family(layout, root)
            size += sum(map(documents_of, families[root.digest].images))
            if size > _MOST_DOCUMENTS:
                raise broken(f"the documents of {folder} have over {_MOST_DOCUMENTS >> 20} MiB")
        every += [(root, image) for image in families[root.digest].images]
    fitting = {
        image.digest: StoredImage(layout, root.digest, image)
        for root, image in every
        if name in (None, root.annotations.get(REF_NAME)) and platform in (None, image.platform)
    }
    there = [
        f"{root.annotations.get(REF_NAME, _NAMELESS)} ({image.platform})" for root, image in every
    ]
    wanted = " ".join(str(part) for part in (name, platform) if part)
    return _only(folder, fitting, wanted, there, "Give name and platform of one")


def if_layout(path: Path) -> str | None:
    """What to do with a folder that was named as something else and is a layout; None for another.

    Raises `Unreadable`.
    """
    if is_there(path / _MARKER):
        return f"It is an OCI layout: name an image in it, as oci:{path}:NAME."
    return None


def layout_at(path: Path) -> Layout:
    """The layout at a path; one that is missing is made when something is fetched into it.

    Raises `Unreadable`, `BrokenImage`, and `BadReference` for a folder of something else.
    """
    if is_there(path / _MARKER):
        return existing_layout(path)
    if is_there(path / "index.json"):
        raise BadReference(
            f"{path} holds an index.json and is not an OCI layout",
            next_step="Name another folder.",
        )
    return Layout(path)


def create_layout(path: Path) -> Layout:
    """The layout at a path, created empty if missing.

    The marker comes first: cut off between the two files, a second run finds a layout and writes
    the other. Raises `Unwritable`, and as `layout_at`.
    """
    with new_folder(path), _locked(path):
        layout_at(path)
        marker, index = path / _MARKER, path / "index.json"
        if not is_there(marker):
            version = dump_json({"imageLayoutVersion": _VERSION})
            write_atomically(marker, version, within=path)
        if not is_there(index):
            empty = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
            write_atomically(index, dump_json(empty), within=path)
    return existing_layout(path)


@contextlib.contextmanager
def _undone_without_blobs(path: Path) -> Iterator[None]:
    """Where the block fails and the layout was not there before, it goes while it has no blob."""
    if is_there(path / _MARKER):
        yield
        return
    with new_folder(path):
        try:
            yield
        except BaseException:
            with contextlib.suppress(OSError):  # there is a blob, which the next run may use
                _remove_without_blobs(path)
            raise


def _remove_without_blobs(path: Path) -> None:
    """Raises `OSError` where there is a blob. Without one, index.json has no name to lose."""
    with locked(path):
        blobs = path / "blobs"
        for folder in (*blobs.glob("*"), blobs):
            with contextlib.suppress(FileNotFoundError):
                folder.rmdir()
        for name in ("index.json", _MARKER):
            (path / name).unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One writer of a layout at a time: two that read the same index.json would lose a name."""
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(locked(path))
        except OSError as error:
            raise _unreadable(path, error) from error
        yield


def existing_layout(path: Path) -> Layout:
    """The layout at a path. Raises `Unreadable`, `BrokenImage`."""
    try:
        marker = parse_json(read_file(path / _MARKER, MOST_BYTES), str(path / _MARKER))
    except OSError as error:
        raise _unreadable(path, error) from error
    if marker.get("imageLayoutVersion") != _VERSION:
        raise broken(f"{path} is an image layout of version {marker.get('imageLayoutVersion')!r}")
    return Layout(path)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise BadReference(
            f"{name!r} cannot name an image in a layout",
            next_step="Letters, digits and single -._:@+/ between them.",
        )


def _set_name(entries: list[dict[str, Any]], name: str, root: Descriptor) -> None:
    """Replace the entry of that name in its position, so that a second run changes no byte."""
    new = {
        "mediaType": root.media_type,
        "digest": root.digest,
        "size": root.size,
        "annotations": {REF_NAME: name},
    }
    named = [(entry.get("annotations") or {}).get(REF_NAME) == name for entry in entries]
    place = named.index(True) if True in named else len(entries)
    entries[place : place + 1] = [new]


def _unreadable(path: Path, error: OSError) -> Unreadable:
    return Unreadable(
        f"{path} cannot be read as an image layout: {error.strerror or error}",
        next_step="Give a directory that holds oci-layout and index.json (skopeo copy makes one).",
    )


def _chunks(stream: Verified) -> Iterator[bytes]:
    try:
        while data := stream.read(_CHUNK):
            yield data
    except OSError as error:
        raise Unreadable(f"a blob cannot be read: {error}", next_step="Try again.") from error
