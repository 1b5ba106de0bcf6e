"""The Dockerfile that puts a change on top of an image, and the build context that goes with it.

Every value is checked and quoted by Docker's rules (Dockerfile reference, "Environment
replacement" and "Parser directives"): none can begin an instruction or name a variable. The text
keeps to what the classic builder knows: no `COPY --chmod`, no here-documents.
"""

from __future__ import annotations

import io
import json
import posixpath
import re
import tarfile
import unicodedata
from typing import TYPE_CHECKING

from patcher.errors import BadReference
from patcher.oci.reference import Platform, parse_digest, parse_platform, parse_reference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from patcher.oci.installation import ImageFile
    from patcher.oci.layer import LayerChange

TEMPLATE = "patched.Dockerfile.j2"

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")

# The empty file of the context that covers stale bytecode.
_EMPTY = "empty.pyc"


def render(base: str, platform: Platform, change: LayerChange) -> str:
    """The Dockerfile's text. `base` is `NAME@sha256:...`, or the id of a local image.

    Raises `BadReference` for a base without a digest and for a value that no quoting can hold.
    """
    _check_paths(change)
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from patcher.files import data_path

    environment = Environment(
        loader=FileSystemLoader(data_path("dockerfiles")),
        # A Dockerfile is not HTML: the filters quote.
        autoescape=False,  # noqa: S701  # nosec B701
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"label_key": label_key, "quoted": quoted, "json_paths": json_paths}
    return environment.get_template(TEMPLATE).render(
        base=_pinned(base),
        platform=parse_platform(str(platform)),
        files=[(source(at), file) for at, file in enumerate(change.files)],
        bytecode=[(_EMPTY, path) for path in change.bytecode],
        labels=sorted(change.labels.items()),
    )


def context(dockerfile: str, change: LayerChange) -> bytes:
    """The build context as a tar: `docker build - < context.tar` makes the image by hand.

    A file's mode and time are its tar entry's; its owner is in the Dockerfile.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        _add(archive, "Dockerfile", dockerfile.encode())
        _add(archive, _EMPTY, b"")
        for at, file in enumerate(change.files):
            _add(archive, source(at), file.data, file)
    return buffer.getvalue()


def label_key(value: str) -> str:
    """A label's key, as it is. Raises `BadReference` for what Docker does not advise.

    Not every key can be quoted: the builder looks for the `=` before it looks for quotes.
    """
    if not _KEY.fullmatch(value):
        raise BadReference(
            f"{value!r} cannot be a label's key",
            next_step="Take letters, digits, '.', '-', '_' and '/'.",
        )
    return value


def quoted(value: str) -> str:
    """A value for `LABEL`, in double quotes. Raises `BadReference` for a control character."""
    return '"' + re.sub(r'(["$\\])', r"\\\1", _plain(value)) + '"'


def json_paths(paths: Sequence[str]) -> str:
    """Paths for the JSON form of `COPY`. Raises `BadReference` for a control character.

    The builder reads the JSON, and then replaces variables and takes quotes and backslashes away
    in each string: both are undone, in the opposite order.
    """
    escaped = [re.sub(r"""(["'$\\])""", r"\\\1", _plain(path)) for path in paths]
    return json.dumps(escaped, ensure_ascii=False)


def _plain(value: str) -> str:
    """The value itself, where one line of UTF-8 can hold it."""
    for character in value:
        if unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"}:
            raise BadReference(
                f"{value!r} holds U+{ord(character):04X}, which no Dockerfile can carry",
                next_step="Take the control character out.",
            )
    return value


def _pinned(base: str) -> str:
    """The base as the Dockerfile names it: canonical, and never by a tag."""
    if base.startswith("sha256:"):
        return parse_digest(base)
    reference = parse_reference(base)
    if reference.digest is None:
        raise BadReference(
            f"{base!r} pins nothing", next_step="Name the base as NAME@sha256:DIGEST."
        )
    return str(reference.pinned(reference.digest))


def _check_paths(change: LayerChange) -> None:
    """Raise `BadReference` for a path that is not an absolute, plain one."""
    for path in (*(file.path for file in change.files), *change.bytecode):
        if path == "/" or posixpath.normpath("/" + path.lstrip("/")) != path:
            raise BadReference(
                f"{path!r} is not the absolute path of a file", next_step="Write it out in full."
            )


def source(at: int) -> str:
    """A file's name in the context: our own, for a wildcard in COPY's source would be expanded."""
    return f"{at}.patched"


def _add(
    archive: tarfile.TarFile, name: str, data: bytes, original: ImageFile | None = None
) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    entry.mode = original.mode if original else 0o644
    entry.mtime = original.mtime if original else 0
    archive.addfile(entry, io.BytesIO(data))
