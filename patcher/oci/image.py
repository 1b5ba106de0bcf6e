"""An image as a value: its documents parsed once, and vLLM found in its layers.

A parsed image is handed on from the base to what is built on it and to what checks the result;
nobody reads its documents a second time.
"""

from __future__ import annotations

import contextlib
import posixpath
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from io import BufferedReader
from typing import TYPE_CHECKING, BinaryIO, Protocol

from patcher.errors import BrokenImage
from patcher.oci.blobs import Counted, Moved, read_blob, short_id
from patcher.oci.model import (
    INDEXES,
    Config,
    Descriptor,
    Index,
    Manifest,
    broken,
    parse_config,
    parse_index,
    parse_manifest,
)
from patcher.oci.rootfs.filesystem import Filesystem
from patcher.oci.rootfs.installed import PACKAGE, VERSION_FILE, parse_version
from patcher.oci.rootfs.located import Located, locate
from patcher.oci.rootfs.running import find_installation, wanted_of
from patcher.oci.rootfs.scan import Traces, Wanted, scan_layer
from patcher.oci.rootfs.start import read_start
from patcher.progress import moving
from patcher.talk import detail
from patcher.threads import in_order

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from patcher.oci.blobs import Blobs, Watch
    from patcher.oci.installation import Installation
    from patcher.oci.reference import Platform
    from patcher.oci.rootfs.start import Start


# Inflating and hashing leave the lock to others, and a registry limits each connection.
_AT_ONCE = 4

# What the layers of one image may come to in all: `patcher.oci.rootfs.scan` says what real ones do.
# A layer that is listed twice counts twice, since it is applied twice.
_MOST_NAMES = 1_000_000
_MOST_ENTRIES = 10_000_000
_MOST_KEPT = 256 << 20

# Manifests and configs of all platforms; vLLM's have some 200 KB. As JSON they take 20 times that.
MOST_DOCUMENTS = 16 << 20


@dataclass(frozen=True, slots=True)
class Image:
    """A manifest with its config: one image for one platform."""

    descriptor: Descriptor
    manifest: Manifest
    config: Config

    @property
    def digest(self) -> str:
        """The manifest's digest."""
        return self.descriptor.digest

    @property
    def platform(self) -> Platform:
        """What the index that lists it, or else its config, states."""
        return self.descriptor.platform or self.config.platform

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels of its config, which an image built on it inherits."""
        return self.config.labels


@dataclass(frozen=True, slots=True)
class Family:
    """What a name or digest leads to: an index with its images, or a single image.

    `index` is None for a single image. Attestations are not among the images.
    """

    root: Descriptor
    index: Index | None
    images: tuple[Image, ...]


class Cache(Protocol):
    """Keeps what was learnt of a layer, by the layer's digest and what was looked for."""

    def load(self, layer: Descriptor, wanted: Wanted) -> Traces | None:
        """What is kept; None where nothing is."""
        ...

    def save(self, layer: Descriptor, wanted: Wanted, traces: Traces) -> None:
        """Keep it."""
        ...


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image whose blobs a store holds: a registry's repository, or an OCI layout.

    `root` is the digest of what the name led to: the image's own, or that of its index.
    """

    blobs: Blobs
    root: str
    image: Image
    cache: Cache | None = None

    @property
    def digest(self) -> str:
        """What pins it: the digest of what the name led to."""
        return self.root

    @property
    def platform(self) -> Platform:
        """What the index or else the config states."""
        return self.image.platform

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels of the image's config."""
        return self.image.labels

    def installation(
        self, targets: Sequence[str], root: str | None = None, mentions: Sequence[bytes] = ()
    ) -> Installation:
        """The vLLM that is run in the image, with the target files. See `find`."""
        return find(self.blobs, self.image, targets, self.cache, root=root, mentions=mentions)

    def located(self, targets: Sequence[str], mentions: Sequence[bytes]) -> Located | None:
        """What can be written down of the vLLM that is run in it. See `locate`."""
        looked = _Look(self.blobs, self.image, self.cache)
        found = looked.installation(targets, mentions=mentions)
        layers = self.image.manifest.layers[::-1]
        return locate(found, list(zip(layers, looked.seen, strict=True)), self.blobs, mentions)

    def stated_version(
        self, targets: Sequence[str], mentions: Sequence[bytes]
    ) -> tuple[str, str | None]:
        """Version and commit of the topmost vLLM among installed packages.

        No more layers are read than that takes, so that another may be the one that runs: enough
        for a name, and for no verdict. Raises as `find`.
        """
        looked = _Look(self.blobs, self.image, self.cache)
        version = looked.topmost_version(targets, mentions)
        if version is None:
            found = looked.installation(targets, mentions=mentions)
            version = found.named_version(), found.commit
        return version


def load_image(blobs: Blobs, descriptor: Descriptor) -> Image:
    """The manifest and config that a descriptor leads to, which must agree."""
    manifest = parse_manifest(read_blob(blobs, descriptor), descriptor.media_type)
    config = parse_config(read_blob(blobs, manifest.config))
    if len(config.diff_ids) != len(manifest.layers):
        raise broken(
            f"{descriptor.digest}: {len(manifest.layers)} layers in the manifest, "
            f"{len(config.diff_ids)} in the config"
        )
    stated, own = descriptor.platform, config.platform
    if stated is not None:
        # Builders leave the variant out of an index or a config as they like.
        variants = {stated.variant, own.variant} - {None}
        same = (stated.os, stated.architecture) == (own.os, own.architecture)
        if not same or len(variants) > 1:
            raise broken(f"{descriptor.digest}: index says {stated}, config says {own}")
    return Image(descriptor, manifest, config)


def load_index(blobs: Blobs, descriptor: Descriptor) -> Index:
    """The index that a descriptor leads to."""
    return parse_index(read_blob(blobs, descriptor), descriptor.media_type)


def load_family(blobs: Blobs, root: Descriptor) -> Family:
    """What a manifest's or index's descriptor leads to, each document read and parsed once.

    Raises `BrokenImage`, `Unreadable`.
    """
    index = load_index(blobs, root) if root.media_type in INDEXES else None
    descriptors = index.images if index else (root,)
    images: list[Image] = []
    size = 0
    for each in descriptors:
        images.append(load_image(blobs, each))
        size += documents_of(images[-1])
        if size > MOST_DOCUMENTS:
            raise broken(f"the documents of {root.digest} have over {MOST_DOCUMENTS >> 20} MiB")
    return Family(root, index, tuple(images))


def documents_of(image: Image) -> int:
    """The bytes of an image's manifest and config."""
    return image.descriptor.size + image.manifest.config.size


def find(
    blobs: Blobs,
    image: Image,
    targets: Sequence[str],
    cache: Cache | None = None,
    *,
    root: str | None = None,
    mentions: Sequence[bytes] = (),
) -> Installation:
    """The vLLM that is run in an image, wherever its blobs are kept. See `find_installation`.

    Every layer is streamed once, several at a time, but for those that the cache knows: the names
    of all are needed to know that there is no other vLLM. Raises `Unreadable` too.
    """
    return _Look(blobs, image, cache).installation(targets, root=root, mentions=mentions)


@dataclass(slots=True)
class _Look:
    """One look at an image's layers. `seen` are the traces of all, the topmost first."""

    blobs: Blobs
    image: Image
    cache: Cache | None
    seen: list[Traces] = field(default_factory=list)

    def installation(
        self, targets: Sequence[str], *, root: str | None = None, mentions: Sequence[bytes] = ()
    ) -> Installation:
        """See `find`."""
        return find_installation(self._scan, self._start(), targets, root=root, mentions=mentions)

    def topmost_version(
        self, targets: Sequence[str], mentions: Sequence[bytes]
    ) -> tuple[str, str | None] | None:
        """See `StoredImage.stated_version`; None where no installed package states one."""
        wanted = wanted_of(self._start(), targets, mentions)
        above: list[Traces] = []
        for layer in self.image.manifest.layers[::-1]:
            kept = self.cache.load(layer, wanted) if self.cache else None
            if kept is None:
                with self._reading([layer]) as watch:
                    kept = _traces(self.blobs, wanted, self.cache, watch, layer)
            above.append(kept)
            _expect_bounded(above)
            if any(path.endswith(f"-packages/{VERSION_FILE}") for path in above[-1].files):
                stated = set(_versions(Filesystem(above)))
                if len(stated) == 1:
                    return stated.pop()
                if stated:
                    return None
        return None

    def _reading(self, layers: Sequence[Descriptor]) -> AbstractContextManager[Watch]:
        doing = f"{self.image.platform}: looking for vLLM"
        return moving(doing, sum(layer.size for layer in layers))

    def _start(self) -> Start:
        return read_start(self.image.config.document.get("config"))

    def _scan(self, wanted: Wanted) -> list[Traces]:
        layers = self.image.manifest.layers[::-1]
        known: dict[str, Traces] = {}
        unread: dict[str, Descriptor] = {}
        for layer in layers:
            if layer.digest in known or layer.digest in unread:
                continue  # the empty one was there often in old images
            kept = self.cache.load(layer, wanted) if self.cache else None
            if kept is None:
                unread[layer.digest] = layer
            else:
                known[layer.digest] = kept
                _expect_bounded(known.values())
        detail(f"{self.image.platform}: {len(known)} layers out of the cache")
        if unread:
            with self._reading(list(unread.values())) as watch:
                read = partial(_traces, self.blobs, wanted, self.cache, watch)
                said = in_order(read, list(unread.values()), _AT_ONCE)
                for digest, traces in zip(unread, said, strict=True):
                    known[digest] = traces
                    _expect_bounded(known.values())
        self.seen = [known[layer.digest] for layer in layers]
        _expect_bounded(self.seen)
        return self.seen


def _versions(files: Filesystem) -> Iterator[tuple[str, str | None]]:
    """What the installed packages that are seen state of themselves, where it can be read."""
    for folder, names in files.walk():
        if posixpath.basename(VERSION_FILE) in names and folder.endswith(f"-packages/{PACKAGE}"):
            with contextlib.suppress(BrokenImage):
                yield parse_version(
                    files.read(f"{folder}/{posixpath.basename(VERSION_FILE)}") or b""
                )


def _expect_bounded(layers: Collection[Traces]) -> None:
    """Raise `BrokenImage` where layers that are each in order hold too much together."""
    names = sum(map(len, layers))
    entries = sum(len(layer.others) for layer in layers)
    kept = sum(layer.kept for layer in layers)
    if names > _MOST_NAMES or entries > _MOST_ENTRIES or kept > _MOST_KEPT:
        raise broken(
            f"the layers hold {names} folders and links, {entries} files, and {kept >> 20} MiB "
            "to be kept"
        )


def _traces(
    blobs: Blobs, wanted: Wanted, cache: Cache | None, watch: Watch, layer: Descriptor
) -> Traces:
    """What a layer says, out of its blob; kept for the next time."""
    start = time.monotonic()
    found = scan_layer(lambda: _counted(blobs, watch, layer), layer, wanted)
    seconds = time.monotonic() - start
    detail(f"{short_id(layer)}: {layer.size / 1e6:,.1f} MB read in {seconds:.2f} s")
    if cache:
        cache.save(layer, wanted, found)
    return found


def _counted(blobs: Blobs, watch: Watch, layer: Descriptor) -> BinaryIO:
    return BufferedReader(Counted(blobs.open(layer), Moved(layer, watch, "Reading").add), 1 << 16)
