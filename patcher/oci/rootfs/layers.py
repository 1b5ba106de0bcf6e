"""An image whose layers a store holds: each is read once, and vLLM found in what they say."""

from __future__ import annotations

import contextlib
import posixpath
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import BufferedReader
from typing import TYPE_CHECKING, BinaryIO, Protocol

from patcher.errors import BrokenImage
from patcher.oci.blobs import Counted, Moved, short_id
from patcher.oci.model import Descriptor, broken
from patcher.oci.rootfs.filesystem import Filesystem
from patcher.oci.rootfs.installed import PACKAGE, VERSION_FILE, parse_version
from patcher.oci.rootfs.located import Located, LocatedFile, locate, read_located
from patcher.oci.rootfs.running import find_installation, wanted_of
from patcher.oci.rootfs.scan import Traces, Wanted, scan_layer
from patcher.oci.rootfs.start import Start, read_start
from patcher.progress import moving
from patcher.talk import detail
from patcher.threads import in_order

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from patcher.oci.blobs import Blobs, Watch
    from patcher.oci.image import Image
    from patcher.oci.installation import Installation
    from patcher.oci.reference import Platform

# Inflating and hashing leave the lock to others, and a registry limits each connection.
_AT_ONCE = 4

# What the layers of one image may come to in all: `patcher.oci.rootfs.scan` says what real ones do.
# A layer that is listed twice counts twice, since it is applied twice.
_MOST_NAMES = 1_000_000
_MOST_ENTRIES = 10_000_000
_MOST_KEPT = 256 << 20


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

    `digest` pins it: that of what its name led to, the image's own or its index's. What its layers
    say is kept in the `cache`.
    """

    blobs: Blobs
    digest: str
    image: Image
    cache: Cache | None = None

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
        """See `BaseImage`. Raises `Unreadable` too.

        Every layer is read, but for those that the cache knows: the names of all are needed to
        know that there is no other vLLM.
        """
        return find_installation(self._scan, self._start, targets, root=root, mentions=mentions)

    def located(self, targets: Sequence[str], mentions: Sequence[bytes]) -> Located | None:
        """What can be written down of the vLLM that is run in it. See `locate`."""
        seen: list[Traces] = []

        def scan(wanted: Wanted) -> list[Traces]:
            seen[:] = self._scan(wanted)
            return seen

        found = find_installation(scan, self._start, targets, mentions=mentions)
        return locate(found, list(zip(self._layers, seen, strict=True)), self.blobs, mentions)

    def read(self, file: LocatedFile) -> bytes | None:
        """See `LocatedImage`: a range of one layer."""
        return read_located(self.blobs, self._layers, file)

    def stated_version(
        self, targets: Sequence[str], mentions: Sequence[bytes]
    ) -> tuple[str, str | None]:
        """Version and commit of the topmost vLLM among installed packages.

        No more layers are read than that takes, so that another may be the one that runs: enough
        for a name, and for no verdict. Raises as `installation`.
        """
        stated = self._topmost_version(wanted_of(self._start, targets, mentions))
        if stated is not None:
            return stated
        found = self.installation(targets, mentions=mentions)
        return found.named_version(), found.commit

    def _topmost_version(self, wanted: Wanted) -> tuple[str, str | None] | None:
        """See `stated_version`; None where no installed package states one, or two differ."""
        above: list[Traces] = []
        for layer in self._layers:
            traces = self._kept(layer, wanted)
            if traces is None:
                with self._reading([layer]) as watch:
                    traces = self._read_layer(wanted, watch, layer)
            above.append(traces)
            _expect_bounded(above)
            if any(path.endswith(f"-packages/{VERSION_FILE}") for path in traces.files):
                stated = set(_versions(Filesystem(above)))
                if stated:
                    return stated.pop() if len(stated) == 1 else None
        return None

    def _scan(self, wanted: Wanted) -> list[Traces]:
        """What each layer says, the topmost first; several are read at a time."""
        known: dict[str, Traces] = {}
        unread: dict[str, Descriptor] = {}
        for layer in self._layers:
            if layer.digest in known or layer.digest in unread:
                continue  # the empty one was there often in old images
            kept = self._kept(layer, wanted)
            if kept is None:
                unread[layer.digest] = layer
            else:
                known[layer.digest] = kept
                _expect_bounded(known.values())
        detail(f"{self.platform}: {len(known)} layers out of the cache")
        if unread:
            layers = list(unread.values())
            with self._reading(layers) as watch:
                read = in_order(partial(self._read_layer, wanted, watch), layers, _AT_ONCE)
                for digest, traces in zip(unread, read, strict=True):
                    known[digest] = traces
                    _expect_bounded(known.values())
        every = [known[layer.digest] for layer in self._layers]
        _expect_bounded(every)
        return every

    @property
    def _start(self) -> Start:
        return read_start(self.image.config.document.get("config"))

    @property
    def _layers(self) -> tuple[Descriptor, ...]:
        """The topmost first."""
        return self.image.manifest.layers[::-1]

    def _kept(self, layer: Descriptor, wanted: Wanted) -> Traces | None:
        return self.cache.load(layer, wanted) if self.cache else None

    def _reading(self, layers: Sequence[Descriptor]) -> AbstractContextManager[Watch]:
        doing = f"{self.platform}: looking for vLLM"
        return moving(doing, sum(layer.size for layer in layers))

    def _read_layer(self, wanted: Wanted, watch: Watch, layer: Descriptor) -> Traces:
        """What a layer says, out of its blob; kept for the next time."""

        def open_blob() -> BinaryIO:
            counted = Counted(self.blobs.open(layer), Moved(layer, watch, "Reading").add)
            return BufferedReader(counted, 1 << 16)

        start = time.monotonic()
        found = scan_layer(open_blob, layer, wanted)
        seconds = time.monotonic() - start
        detail(f"{short_id(layer)}: {layer.size / 1e6:,.1f} MB read in {seconds:.2f} s")
        if self.cache:
            self.cache.save(layer, wanted, found)
        return found


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
