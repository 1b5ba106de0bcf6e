"""Building the rendered Dockerfile in the daemon, and proving that it built what was asked.

Docker has its classic builder for this, podman the same call of the API.

The builder makes one image for each instruction, and leaves those of a build that fails. Each
build here is made without its cache, so that whatever it makes is its own and can be removed.
"""

from __future__ import annotations

import io
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from patcher.daemon.client import asking, follow, inspect, undisturbed
from patcher.errors import BrokenImage, DaemonFailed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from docker import DockerClient

    from patcher.oci.layer import LayerChange
    from patcher.oci.reference import Platform

# How the classic builder tells the id of an instruction's image, and how podman does (4.3: 11
# digits); they say nothing else like it.
_STEP = re.compile(r"(?: ---|--)> ([0-9a-f]{11,12})\n")

# What podman's builder says of itself on every image.
_BUILDER = "io.buildah.version"

# What decides how a container starts: a derived image must inherit each of them unchanged.
_INHERITED = (
    "Entrypoint",
    "Cmd",
    "User",
    "WorkingDir",
    "ExposedPorts",
    "Volumes",
    "Healthcheck",
    "StopSignal",
    "Shell",
    "OnBuild",
)

_NEXT_STEP = "Nothing was tagged. Mend what the daemon says, and build again."


@dataclass(frozen=True, slots=True)
class Built:
    """The daemon's inspection of a result, and the ids of all images of its build, in order."""

    attrs: Mapping[str, Any]
    made: tuple[str, ...]


def build(
    client: DockerClient,
    base: Mapping[str, Any],
    platform: Platform,
    context: bytes,
    change: LayerChange,
) -> Built:
    """Build `context`, which makes `change`, on top of an image (the daemon's inspection of it).

    Whatever goes wrong, Ctrl-C too, leaves no image behind. Raises `BrokenImage` where the base
    would run commands, `DaemonFailed` where the build fails or where its result is not the base
    with the change on top.
    """
    if base["Config"].get("OnBuild"):
        raise BrokenImage(
            "the base has ONBUILD triggers, and a build on it would run them",
            next_step="Take the image that it was built from as the base.",
        )
    made: list[str] = []
    try:
        with undisturbed():
            _run(client, base["Id"], platform, context, made)
        doing = "the built image cannot be inspected"
        attrs = inspect(client, made[-1], doing, next_step=_NEXT_STEP)
        check(base, attrs, change, _added(base, change))
        made = _still_there(client, made)
    except BaseException:
        with undisturbed():
            remove(client, made)
        raise
    return Built(attrs, tuple(made))


def _still_there(client: DockerClient, made: Sequence[str]) -> list[str]:
    """Remove the images of a build that its result does not need, and give the others.

    Containerd's image store has no parents: each instruction's image would be a dangling one.
    """
    from docker.errors import DockerException
    from requests import RequestException

    kept = []
    for image in made[:-1]:
        try:
            client.api.remove_image(image, noprune=True)
        except (DockerException, RequestException, DaemonFailed):
            kept.append(image)
    return [*kept, made[-1]]


def remove(client: DockerClient, made: Sequence[str]) -> None:
    """Remove the images of a build, and every name that they have.

    A daemon that does not answer is left alone: the error that led here says more.
    """
    from docker.errors import DockerException
    from requests import RequestException

    for image in reversed(made):
        with suppress(DockerException, RequestException, DaemonFailed):
            # Without noprune the daemon would take an untagged base along.
            client.api.remove_image(image, force=True, noprune=True)


def _run(
    client: DockerClient, base: str, platform: Platform, context: bytes, made: list[str]
) -> None:
    """Build, adding the id of each image to `made` as it comes into being."""
    doing = "the build failed"
    with asking(doing, next_step=_NEXT_STEP):
        events = client.api.build(
            fileobj=io.BytesIO(context),
            custom_context=True,
            platform=str(platform),
            # By id: a name can move between the inspection and the build.
            buildargs={"BASE": base},
            nocache=True,
            pull=False,
            rm=True,
            forcerm=True,
            decode=True,
        )
        for event in follow(events, doing, next_step=_NEXT_STEP):
            step = _STEP.fullmatch(event.get("stream", ""))
            if step and not base.startswith(f"sha256:{step[1]}"):
                made.append(step[1])
    if not made:
        raise DaemonFailed(f"{doing}: there was nothing to do", next_step=_NEXT_STEP)


def check(
    base: Mapping[str, Any], result: Mapping[str, Any], change: LayerChange, added: tuple[int, int]
) -> None:
    """Raise `DaemonFailed` where the result is not the base with the change on top.

    `added` is how many layers more it may have, at least and at most.
    """
    wrong = next(_differences(base, result, change, added), None)
    if wrong is not None:
        raise DaemonFailed(
            f"the daemon made another image than it was asked for: {wrong}",
            next_step="Nothing was tagged. Report it, with what 'docker version' prints.",
        )


def _added(base: Mapping[str, Any], change: LayerChange) -> tuple[int, int]:
    """How many layers a build adds, at least and at most: one for each COPY.

    For LABEL the builder creates a container, and with it the working directory: where the base
    lacks it, that empty directory is a layer.
    """
    copies = len(change.files) + len(change.bytecode)
    works = bool(change.labels and base["Config"].get("WorkingDir"))
    return copies, copies + works


def _differences(
    base: Mapping[str, Any], result: Mapping[str, Any], change: LayerChange, added: tuple[int, int]
) -> Iterator[str]:
    below, layers = base["RootFS"]["Layers"], result["RootFS"]["Layers"]
    least, most = added
    old, new = base["Config"], result["Config"]
    if layers[: len(below)] != below or not least <= len(layers) - len(below) <= most:
        yield f"its layers are not the base's and {least} more"
    for key in ("Os", "Architecture"):
        if result[key] != base[key]:
            yield f"its {key} is {result[key]}, the base's is {base[key]}"
    for key in _INHERITED:
        # What is not set is null, empty or not there, by the daemon's version.
        if (new.get(key) or None) != (old.get(key) or None):
            yield f"its {key} is {new.get(key)!r}, the base's is {old.get(key)!r}"
    if _environment(new, old) != (old.get("Env") or []):
        yield f"its Env is {new.get('Env')!r}, the base's is {old.get('Env')!r}"
    if stated(new) != {**stated(old), **change.labels}:
        yield "its labels are not those of the base and the change"


def stated(config: Mapping[str, Any]) -> dict[str, str]:
    """The labels of a config, but for what a builder says of itself."""
    labels = (config.get("Labels") or {}).items()
    return {key: value for key, value in labels if key != _BUILDER}


def _environment(new: Mapping[str, Any], old: Mapping[str, Any]) -> list[str]:
    """The result's environment, without the PATH that the builder adds where the base has none.

    It is the one that the daemon gives to every container whose image states none.
    """
    has_path = any(entry.startswith("PATH=") for entry in old.get("Env") or [])
    return [entry for entry in new.get("Env") or [] if has_path or not entry.startswith("PATH=")]
