"""Image references, digests and platforms, by the grammars that docker and OCI use.

The grammar of a reference is that of the distribution project (github.com/distribution/reference),
with docker's defaults for what is left out: `vllm/vllm-openai:v0.23.0` is
`docker.io/vllm/vllm-openai:v0.23.0`. Platforms are named as in the OCI image index specification
and normalised as containerd does it, so that `linux/arm64/v8` and `linux/aarch64` are equal.
"""

from __future__ import annotations

import platform as _machine
import re
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from patcher.errors import BadReference

DEFAULT_REGISTRY = "docker.io"

# The old name of Docker Hub, which docker still takes and writes as docker.io.
_LEGACY_REGISTRY = "index.docker.io"

_HOST_PART = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_REGISTRY = re.compile(rf"(?:{_HOST_PART}(?:\.{_HOST_PART})*|\[[a-fA-F0-9:]+\])(?::[0-9]{{1,5}})?")
_PATH_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_PATH_PART}(?:/{_PATH_PART})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_IMAGE_ID = re.compile(r"[0-9a-f]{64}")
_PLATFORM_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")

_NAME_LIMIT = 255

EXAMPLE = "Write it as docker.io/vllm/vllm-openai:v0.23.0, or NAME@sha256:DIGEST."


@dataclass(frozen=True, slots=True)
class Reference:
    """An image's full name. `tag` and `digest` are None where none was given."""

    registry: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    @property
    def name(self) -> str:
        """Registry and repository, without tag and digest."""
        return f"{self.registry}/{self.repository}"

    @property
    def bare(self) -> Reference:
        """The repository alone, without tag and digest."""
        return replace(self, tag=None, digest=None)

    @property
    def asked(self) -> str:
        """What of the repository is meant: a digest or tag, `latest` where neither is given."""
        return self.digest or self.tag or "latest"

    def pinned(self, digest: str) -> Reference:
        """The same repository by digest alone: a tag beside a digest pins nothing more."""
        return replace(self, tag=None, digest=parse_digest(digest))

    def __str__(self) -> str:
        """The canonical text; parsing it gives an equal reference."""
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.name}{tag}{digest}"


def parse_reference(text: str) -> Reference:
    """The reference that docker would understand. Raises `BadReference`."""
    scheme, colon, rest = text.partition("://")
    if colon:
        raise BadReference(
            f"{text!r}: an image's name has no {scheme}://", next_step=f"Write it as {rest}."
        )
    name, at, digest = text.partition("@")
    name, tag = _split_tag(name)
    registry, repository = _split_registry(name)
    _expect(_REGISTRY, registry, "registry", text)
    _expect_address(registry, text)
    if repository != repository.lower():
        raise BadReference(
            f"{text!r}: a repository's name is lower case",
            next_step=f"Write it as {name.lower()}.",
        )
    _expect(_REPOSITORY, repository, "repository", text)
    if len(registry) + 1 + len(repository) > _NAME_LIMIT:
        raise BadReference(
            f"{text!r}: a name has at most {_NAME_LIMIT} characters", next_step=EXAMPLE
        )
    if tag is not None:
        _expect(_TAG, tag, "tag", text)
    return Reference(registry, repository, tag, parse_digest(digest) if at else None)


def _split_tag(name: str) -> tuple[str, str | None]:
    """Name and tag. A colon before the last slash is a registry's port."""
    head, slash, last = name.rpartition("/")
    last, colon, tag = last.partition(":")
    return head + slash + last, tag if colon else None


def _split_registry(name: str) -> tuple[str, str]:
    """Registry and repository, with docker's defaults.

    The first part is a registry only where it could not be a folder of Docker Hub: it has a dot,
    a port, a capital letter, or is `localhost`.
    """
    first, slash, rest = name.partition("/")
    is_host = first == "localhost" or "." in first or ":" in first or first != first.lower()
    if not (slash and is_host):
        if _IMAGE_ID.fullmatch(name):
            raise BadReference(f"{name!r} is an image id, not a name", next_step=EXAMPLE)
        first, rest = DEFAULT_REGISTRY, name
    if first == _LEGACY_REGISTRY:
        first = DEFAULT_REGISTRY
    if first == DEFAULT_REGISTRY and "/" not in rest:
        rest = f"library/{rest}"
    return first, rest


def _expect(grammar: re.Pattern[str], part: str, what: str, text: str) -> None:
    if not grammar.fullmatch(part):
        raise BadReference(f"{text!r}: {part!r} is not a valid {what}", next_step=EXAMPLE)


def is_tag(text: str) -> bool:
    """May this be a tag (distribution specification, "Pulling manifests")?"""
    return _TAG.fullmatch(text) is not None


def _expect_address(registry: str, text: str) -> None:
    """The grammar takes ports over 65535, and brackets around what is not an IPv6 address."""
    try:
        _ = urlsplit(f"//{registry}").port
    except ValueError as error:
        raise BadReference(
            f"{text!r}: {registry!r} is not a registry's address", next_step=EXAMPLE
        ) from error


def parse_digest(text: str) -> str:
    """`sha256:` and 64 lower-case hexadecimal digits, unchanged. Raises `BadReference`."""
    if not _DIGEST.fullmatch(text):
        raise BadReference(
            f"{text!r} is not a digest", next_step="A digest is sha256: and 64 hexadecimal digits."
        )
    return text


_ARCHITECTURES = {
    "x86_64": ("amd64", None),
    "x86-64": ("amd64", None),
    "aarch64": ("arm64", None),
    "i386": ("386", None),
    "i686": ("386", None),
    "armhf": ("arm", "v7"),
    "armv7l": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv6l": ("arm", "v6"),
}

# What an architecture without a variant means: writing it out adds nothing.
_IMPLIED_VARIANT = {"amd64": "v1", "arm64": "v8", "arm": "v7"}


@dataclass(frozen=True, slots=True)
class Platform:
    """An operating system and an architecture; normalised, so that equal means the same.

    `variant` is None where it is the one that the architecture implies.
    """

    os: str
    architecture: str
    variant: str | None = None

    def __post_init__(self) -> None:
        architecture = self.architecture.lower()
        architecture, variant = _ARCHITECTURES.get(architecture, (architecture, None))
        variant = (self.variant or variant or "").lower().removeprefix("v")
        variant = f"v{variant}" if variant.isdigit() else variant
        if variant == _IMPLIED_VARIANT.get(architecture):
            variant = ""
        object.__setattr__(self, "os", self.os.lower())
        object.__setattr__(self, "architecture", architecture)
        object.__setattr__(self, "variant", variant or None)

    def __str__(self) -> str:
        """`os/architecture`, and `/variant` where there is one."""
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))


def parse_platform(text: str) -> Platform:
    """The platform of `linux/arm64` or `linux/arm64/v8`. Raises `BadReference`."""
    parts = text.split("/")
    if len(parts) not in (2, 3) or not all(_PLATFORM_PART.fullmatch(part) for part in parts):
        raise BadReference(
            f"{text!r} is not a platform", next_step="Write it as linux/amd64 or linux/arm64."
        )
    return Platform(*parts)


def host_platform() -> Platform:
    """The platform whose containers this machine runs: Linux, also where docker runs in a VM."""
    return Platform("linux", _machine.machine())
