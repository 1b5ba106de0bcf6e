"""The workflows, executed: against a real registry by TLS, with a token server in front of it."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import fnmatch
import json
import os
import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.auth_servers import docker_config, registry_with_login, token_auth, token_server
from tests.bases import Base, write_lock
from tests.certificates import make_certificate
from tests.conftest import missing, real_registry
from tests.installed import install
from tests.scripted import Reply, Seen, Server, serving
from tests.workflows import FOLDER, ONE_PATCH, ROOT, Job, Runner, action, workflow

NAMES = sorted(path.stem for path in FOLDER.glob("*.yml"))
LANDED = workflow("landed")["jobs"]
NEEDED = b"class MLA:\n    def dtype(self):\n        return self.kv_b_proj.weight.dtype\n"
CLEAN = b"class MLA:\n    def dtype(self):\n        return None\n"
BASES = "public/vllm"
LOGIC = re.compile(r"\b(if|for|while|case|python|jq|grep|sed|awk|curl)\b|\$\(")
GONE = f"sha256:{'0' * 64}"


def steps(name: str) -> list[dict[str, Any]]:
    return [step for job in workflow(name)["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("name", NAMES)
def test_a_step_calls_the_program_or_make_and_has_no_logic(name: str) -> None:
    for step in steps(name):
        lines = step.get("run", "").splitlines()
        assert not re.search(
            r"\b(if|for|while|case|python|jq|grep|sed|awk|curl)\b|\$\(", str(lines)
        )
        assert "run" not in step or any(
            re.match(r"\s*(make|pipx install|\.ci/run|(\.venv/bin/)?vllm-patcher)\b", line)
            for line in lines
        )
        assert "${{" not in step.get("run", ""), "a script must not be made of what others write"


@pytest.mark.parametrize("name", NAMES)
def test_actions_are_pinned_by_commit_and_permissions_by_job(name: str) -> None:
    text = (FOLDER / f"{name}.yml").read_text()
    used = re.findall(r"^[ -]+uses: (.+)", text, re.MULTILINE)
    for pin in used:
        assert re.fullmatch(r"[\w-]+(/[\w-]+){1,2}@[0-9a-f]{40} # v\d+\.\d+\.\d+", pin)
    document = workflow(name)
    assert document["permissions"] == {}
    assert document["concurrency"]["group"]
    for job in document["jobs"].values():
        assert job["permissions"]
        assert int(job["timeout-minutes"])
        for step in job["steps"]:
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] == "false"


@pytest.mark.parametrize("name", NAMES)
def test_nothing_that_another_run_has_cached_is_patched_or_published(name: str) -> None:
    """What GitHub's cache restores may have been put there by any job of the branch."""
    kept = {"landed": {"alarm.json"}}.get(name, set())  # days, which are read as days or not at all
    for step in [*steps(name), *(action()["runs"]["steps"] if name == NAMES[0] else [])]:
        given = step.get("with", {})
        if "/cache" in step.get("uses", ""):
            assert given["path"] in kept
        assert {given[key] for key in given if key.startswith("cache")} <= {"false"}


def test_an_action_has_one_pin_in_all_workflows() -> None:
    pins = {step["uses"] for name in NAMES for step in steps(name) if "uses" in step}
    by_repository = {"/".join(pin.split("/")[:2]).partition("@")[0] for pin in pins}
    assert len({pin.partition("@")[2] for pin in pins}) == len(by_repository)


@pytest.mark.parametrize("name", ["images", "landed", "lock", "program", "release"])
def test_what_a_workflow_with_a_token_installs_is_pinned(name: str) -> None:
    document = workflow(name)
    pinned_by = dict.fromkeys(("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT"), ".github/constraints.txt")
    assert pinned_by.items() <= document["env"].items()
    [python] = {
        step["with"]["python-version"]
        for step in steps(name)
        if step.get("uses", "").startswith("actions/setup-python@")
    }
    lines = (FOLDER.parent / "constraints.txt").read_text().splitlines()
    pins = {line.partition("==")[0] for line in lines if not line.startswith("#")}
    pinned = {canonicalize_name(pin) for pin in pins}
    project = tomllib.loads((FOLDER.parents[1] / "pyproject.toml").read_text())
    built_by = [Requirement(each).name for each in project["build-system"]["requires"]]
    needed = set().union(
        *(
            installed_by(each, {"python_version": python})
            for each in ["vllm-patcher", "mkdocs-material", *built_by]
        )
    )
    assert needed - {"vllm-patcher"} <= pinned


def installed_by(name: str, environment: dict[str, str]) -> set[str]:
    """A distribution and all that it needs, as far as that is installed here."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        if (one := canonicalize_name(waiting.pop())) in found:
            continue
        found.add(one)
        with contextlib.suppress(metadata.PackageNotFoundError):
            wanted = map(Requirement, metadata.requires(one) or ())
            environment = {**environment, "extra": ""}
            waiting += [
                each.name
                for each in wanted
                if each.marker is None or each.marker.evaluate(environment)
            ]
    return found


def test_ci_runs_what_everyone_runs() -> None:
    job = workflow("ci")["jobs"]["test"]
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    versions = [python["version"] for python in job["strategy"]["matrix"]["python"]]
    assert versions == ["3.11", "3.14"]
    for python in job["strategy"]["matrix"]["python"]:
        assert re.fullmatch(
            rf"python:{python['version']}-\w+@sha256:[0-9a-f]{{64}}", python["image"]
        )


@dataclass
class World:
    """Bases in a registry, and what a run of a workflow knows."""

    home: Path
    host: str
    authority: Path
    digests: dict[str, str]
    runs: int = 0
    server: Server | None = None
    login: bool = True
    entries: list[Any] = field(default_factory=list)

    def lock(self, *bases: Base, **digests: str) -> None:
        """The lock that a checkout has: these bases, with other digests where given."""
        place = f"{self.host}/{BASES}"
        self.entries = [
            base.entry(place, digests.get(base.version.replace(".", "_"), self.digests[base.tag]))
            for base in bases
        ]

    def runner(self, event: str = "push", attempt: int = 1) -> Runner:
        self.runs += 1
        home = self.home / str(self.runs)
        if self.login:
            docker_config(home / "docker", self.host)
        environment = {
            "SSL_CERT_FILE": str(self.authority),
            "DOCKER_CONFIG": str(home / "docker"),
            "XDG_CACHE_HOME": str(home / "cache"),
        }
        values = {
            "vars.REGISTRY || 'ghcr.io'": self.host,
            "vars.REGISTRY_USER || github.actor": "tester",
            "secrets.REGISTRY_TOKEN || github.token": "t0ken",
            "github.event_name": event,
            "github.run_id": "1",
            "github.run_attempt": str(attempt),
            "github.token": "t0ken",
            PATCHED: f"{self.host}/owner/vllm-openai-patched",
        }

        def prepare(place: Path) -> None:
            write_lock(place / "images.lock", *self.entries)

        return Runner(home, environment, values, prepare)

    def images(self, event: str = "push", attempt: int = 1, cut_off: str = "") -> dict[str, Job]:
        """Run images.yml whole; its jobs by name, those of the matrix by the base's tag.

        The job of `cut_off` is one that its runner did not survive.
        """
        runner, jobs = self.runner(event, attempt), workflow("images")["jobs"]
        done = {"bases": runner.run(jobs["bases"], "bases")}
        matrix = json.loads(done["bases"].outputs["lock"]["lock"])["images"]
        for index, base in enumerate(matrix):
            reference = base["original"]["reference"]
            values = {
                "matrix.base.original.reference": reference,
                "matrix.base.pins[0].digest": base["pins"][0]["digest"],
                "strategy.job-index": str(index),
            }
            tag = reference.rpartition(":")[2]
            if tag == cut_off:
                continue
            done[tag] = runner.run(jobs["publish"], f"publish-{index}", **values)
        done["summary"] = runner.run(jobs["summary"], "summary")
        return done


PATCHED = "vars.PATCHED_IMAGE || format('ghcr.io/{0}/vllm-openai-patched', github.repository_owner)"
ATTEST = "actions/attest-build-provenance"

V23 = Base("v0.23.0", "0.23.0", NEEDED)
V24 = Base("v0.24.0", "0.24.0", NEEDED)
V28 = Base("v0.28.0", "0.28.0", CLEAN)
OLDER = Base(f"nightly-{'b' * 40}", "0.23.1rc1.dev5+gbbbbbbbbb", NEEDED)
NIGHTLY = Base(f"nightly-{'a' * 40}", "0.24.1rc1.dev7+gaaaaaaaaa", NEEDED)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def world(tmp_path: Path, certificate: Path) -> Iterator[World]:
    data = tmp_path / "registry"
    with real_registry(data) as plain:
        digests = {base.tag: base.push(plain, BASES) for base in (V23, V24, V28, OLDER, NIGHTLY)}
    with token_server(certificate) as (_, server):
        auth = token_auth(f"{server.url}/token", "tests", certificate.parent)
        with registry_with_login(data, certificate, auth) as host:
            yield World(tmp_path, host, certificate.with_name("ca.pem"), digests, server=server)


def test_every_base_is_published_summed_up_and_attested(world: World) -> None:
    world.lock(V23, V24)
    first = world.images()
    digests = []
    for tag in ("v0.23.0", "v0.24.0"):
        assert first[tag].failed == [], first[tag].said
        given = first[tag].actions[ATTEST]
        assert given["subject-name"] == f"{world.host}/owner/vllm-openai-patched"
        assert given["push-to-registry"] == "true"
        digests.append(given["subject-digest"])
        assert re.fullmatch("sha256:[0-9a-f]{64}", digests[-1])
    summary = first["summary"]
    assert summary.failed == []
    assert "2 published." in summary.summary
    for digest in digests:
        assert f"`{digest}`" in summary.summary
    assert "`0.23.0-patched`" in summary.summary
    assert "`kv-b-proj-dtype: needed (1 of 1 place)`" in summary.summary
    assert "`kv-b-proj-dtype: clean (1 place)`" in summary.summary

    again = world.images()
    assert again["summary"].failed == []
    assert "2 already there." in again["summary"].summary
    assert ATTEST not in again["v0.23.0"].actions
    world.lock(V24)
    for more in (world.images("workflow_dispatch"), world.images(attempt=2)):
        assert more["v0.24.0"].actions[ATTEST]["subject-digest"] == digests[1]
        assert more["summary"].failed == []
        assert "1 already there." in more["summary"].summary, "one base, and one artifact"


def test_a_base_whose_job_was_cut_off_is_listed_and_makes_the_run_red(world: World) -> None:
    world.lock(V23, V24)
    for cut_off, said in (("v0.24.0", "1 failed, 1 published."), ("v0.23.0", "1 failed, 1 ")):
        summary = world.images(cut_off=cut_off)["summary"]
        assert summary.failed == ["Sum up"]
        assert said in summary.summary
        assert f"{BASES}:{cut_off}`: no report came of it" in summary.summary


def test_no_base_is_no_job() -> None:
    """GitHub refuses a matrix of nothing."""
    condition = workflow("images")["jobs"]["publish"]["if"]
    assert condition == "fromJSON(needs.bases.outputs.lock).images[0]"


def test_what_needs_no_patch_is_listed_and_what_is_gone_makes_the_run_red(world: World) -> None:
    world.lock(V23, V24, V28, **{"0_23_0": GONE})
    done = world.images()
    assert done["v0.23.0"].failed == ["Judge the report"]
    assert ATTEST not in done["v0.23.0"].actions
    assert done["v0.24.0"].failed == []
    assert done["v0.24.0"].actions[ATTEST]["subject-digest"]
    assert done["v0.28.0"].failed == []
    assert ATTEST not in done["v0.28.0"].actions
    summary = done["summary"]
    assert summary.failed == ["Sum up"]
    assert "1 failed, 1 published, 1 no patch needed." in summary.summary
    assert "vLLM 0.28.0 already carries this" in summary.summary
    assert "### Failed" in summary.summary


def test_a_registry_that_refuses_makes_the_run_red_and_nothing_is_attested(world: World) -> None:
    world.lock(V23, V24)
    world.login = False
    done = world.images()
    for tag in ("v0.23.0", "v0.24.0"):
        assert done[tag].failed == ["Judge the report"]
        assert ATTEST not in done[tag].actions
    assert "2 failed." in done["summary"].summary
    assert done["summary"].failed == ["Sum up"]


def as_an_action(world: World, base: str, patches: str = "", lock: str = "") -> Job:
    """What `uses: OWNER/vllm-patcher@v0` does in somebody's workflow."""
    runner = world.runner()
    inputs = {"base": base, "destination": f"{world.host}/other/vllm", "patches": patches}
    values = {f"inputs.{key}": value for key, value in {**inputs, "lock": lock}.items()}
    here = str(runner.home / "action")
    return runner.run(action()["runs"], "action", **values, **{"github.action_path": here})


def test_the_action_publishes_one_base_and_names_it(world: World) -> None:
    world.lock(V23, V24, V28)
    done = as_an_action(world, "0.23.0", "kv-b-proj-dtype")
    assert done.failed == [], done.said
    assert done.outputs["report"]["published"] == "true"
    assert done.outputs["report"]["repository"] == f"{world.host}/other/vllm"
    assert re.fullmatch("sha256:[0-9a-f]{64}", done.outputs["report"]["digest"])
    assert "1 published." in done.summary
    assert as_an_action(world, "0.23.0").outputs["report"]["published"] == "false"

    clean = as_an_action(world, "0.28.0", lock="images.lock")
    assert clean.failed == [], clean.said
    assert clean.outputs["report"].get("digest", "") == ""
    for wrong in (
        as_an_action(world, "0.23.0", "no-such-patch"),
        as_an_action(world, "0.23.0", lock="no.lock"),
    ):
        assert wrong.failed == ["Judge the report"]


def test_the_actions_outputs_and_inputs_are_those_of_its_steps() -> None:
    document = action()
    text = (ROOT / "action.yml").read_text()
    assert set(re.findall(r"\$\{\{ inputs\.([\w-]+) \}\}", text)) == set(document["inputs"])
    for step in document["runs"]["steps"]:
        assert "${{" not in step.get("run", ""), "a script must not be made of what others write"
        assert not LOGIC.search(step.get("run", ""))
    pins = {step["uses"] for step in document["runs"]["steps"] if "uses" in step}
    assert pins <= {step["uses"] for name in NAMES for step in steps(name) if "uses" in step}


def test_a_whole_lock_is_published_for_another_repository(world: World, tmp_path: Path) -> None:
    world.lock(V23, V28)
    programs = tmp_path / "bin"
    programs.mkdir()
    # Releases are on PyPI; this one is not yet.
    (programs / "pipx").write_text('#!/bin/sh\necho "$@" >> pipx.txt\n')
    (programs / "pipx").chmod(0o755)
    install(programs / "vllm-patcher")
    jobs = workflow("whole-lock")["jobs"]
    runner = world.runner()
    environment = {**runner.environment, "PATH": f"{programs}:{os.environ['PATH']}"}
    values = {
        **runner.values,
        "inputs.version": "0.1.0",
        "inputs.destination": f"{world.host}/third/vllm",
        "inputs.lock": "images.lock",
        "inputs.registry": world.host,
        "inputs.user || github.actor": "tester",
        "secrets.token || github.token": "t0ken",
    }
    runner = dataclasses.replace(runner, environment=environment, values=values)
    bases = runner.run(jobs["bases"], "bases")
    assert bases.failed == [], bases.said
    assert (bases.place / "pipx.txt").read_text() == "install vllm-patcher==0.1.0\n"
    said = []
    for index, base in enumerate(json.loads(bases.outputs["lock"]["lock"])["images"]):
        reference = base["original"]["reference"]
        matrix = {"matrix.base.original.reference": reference}
        done = runner.run(jobs["publish"], f"publish-{index}", **matrix)
        assert done.failed == [], done.said
        said.append(done.summary)
    assert "1 published." in said[0]
    assert "1 no patch needed." in said[1]


def test_a_release_is_built_attested_and_published_without_a_password() -> None:
    jobs = workflow("release")["jobs"]
    assert [step["run"] for step in jobs["build"]["steps"] if "run" in step] == ["make dist"]
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert "secrets." not in (FOLDER / "release.yml").read_text()
    [tags] = workflow("release")["on"]["push"]["tags"]
    for tag, fits in (("v0.1.0", True), ("v1.0.0rc1", True), ("v0", False), ("images-1", False)):
        assert fnmatch.fnmatch(tag, tags.replace("+", "*")) is fits


def test_the_programs_image_is_pinned_and_runs_as_nobody() -> None:
    text = (ROOT / "Containerfile").read_text()
    [base] = set(re.findall(r"^FROM (\S+)", text, re.MULTILINE))
    assert re.fullmatch(r"\S+@sha256:[0-9a-f]{64}", base)
    last = text.rpartition("\nFROM ")[2]
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", last, re.MULTILINE)
    assert 'ENTRYPOINT ["vllm-patcher"]' in last
    taken = re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE)
    allowed = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert " ".join(taken).split() == allowed


def test_renovate_finds_each_index_of_the_lock() -> None:
    preset = json.loads((ROOT / "renovate" / "images-lock.json").read_text())
    [manager] = preset["customManagers"]
    [pattern] = manager["matchStrings"]
    [file] = manager["managerFilePatterns"]
    assert re.search(file.strip("/"), "images.lock")
    text = (ROOT / "images.lock").read_text()
    found = re.findall(pattern.replace("(?<", "(?P<"), text)
    wanted = [
        (entry["original"]["reference"], entry["locked"]["index"]["digest"])
        for entry in tomllib.loads(text)["image"]
        if "index" in entry["locked"]
    ]
    assert wanted
    assert [(f"{name}:{tag}", digest) for name, tag, digest in found] == wanted


def test_the_lock_is_updated_pruned_and_proposed(world: World) -> None:
    world.lock(V23, V24, OLDER, **{"0_23_0": GONE})
    [job] = workflow("lock")["jobs"].values()
    done = world.runner().run(job, "update")
    assert done.failed == [], done.said
    given = done.actions["peter-evans/create-pull-request"]
    body = Path(given["body-path"]).read_text()
    assert body.startswith("## images.lock: 2 newer\n")
    assert f"`{world.digests['v0.28.0']}`" in body
    assert "## images.lock: 1 gone upstream\n" in body
    assert f"(`{world.host}/{BASES}:v0.23.0`): index `{GONE}`" in body
    lock = (done.place / given["add-paths"]).read_text()
    assert re.findall(r'^version = "(.+)"$', lock, re.MULTILINE)[::2] == [
        "0.23.1rc1.dev5+gbbbbbbbbb",
        "0.24.0",
        "0.24.1rc1.dev7+gaaaaaaaaa",
        "0.28.0",
    ]


def test_a_lock_whose_registry_refuses_fails_and_is_proposed_unchanged(world: World) -> None:
    world.login = False
    world.entries = [V23.entry(f"{world.host}/private/vllm", GONE)]
    [job] = workflow("lock")["jobs"].values()
    done = world.runner().run(job, "update")
    assert done.failed == ["Lock what is newer", "Drop what is gone"]
    assert (done.place / "update.md").read_text().count("### Could not be read") == 2
    assert (done.place / "images.lock").read_text().count("[[image]]") == 1
    assert "peter-evans/create-pull-request" in done.actions


def following(home: Path, tracker: Server, prepare: Callable[[Path], None], **more: str) -> Runner:
    """What runs landed.yml; a cache's files are beside its home."""
    environment = {
        "GITHUB_API_URL": tracker.url,
        "GITHUB_REPOSITORY": "owner/vllm-patcher",
        **more,
    }
    values = {
        "github.token": "t0ken",
        "github.run_id": "1",
        "github.run_attempt": "1",
        "github.event_name": "schedule",
    }
    (kept := home.parent / "kept").mkdir(exist_ok=True)
    return Runner(home, environment, values, prepare, kept)


def tracker_of(issues: list[dict[str, Any]]) -> Callable[[Seen], Reply]:
    """As much of GitHub as keeps issues: list, create, edit."""

    def answer(seen: Seen) -> Reply:
        assert seen.headers["authorization"] == "Bearer t0ken"
        if seen.method == "GET":
            return Reply(body=json.dumps(issues).encode())
        said = json.loads(seen.body)
        if seen.method == "POST":
            issues.insert(0, {"number": 7, "html_url": "https://github/7", "state": "open", **said})
            return Reply(201, body=json.dumps(issues[0]).encode())
        issues[0].update(said)
        return Reply(body=json.dumps(issues[0]).encode())

    return answer


def test_a_refuted_claim_opens_an_issue_and_the_page_is_handed_over(
    tmp_path: Path, cache_dir: Path, release_file: Callable[[str], bytes]
) -> None:
    release_file("0.23.0")  # PyPI is there, or the test is skipped

    def refute(place: Path) -> None:
        patch = place / ONE_PATCH
        text = patch.read_text()
        assert text.count(">=0.20.0,<0.28.0") == 1
        patch.write_text(text.replace(">=0.20.0,<0.28.0", ">=0.20.0,<0.27.0"))

    issues: list[dict[str, Any]] = []
    with serving(tracker_of(issues)) as tracker:
        runner = following(tmp_path, tracker, refute, XDG_CACHE_HOME=str(cache_dir / "xdg"))
        check, alarm = (runner.run(LANDED[job], job) for job in ("check", "alarm"))
    assert check.failed == []
    assert "is refuted" in check.summary
    assert check.actions["actions/upload-pages-artifact"] == {"path": "out/site"}
    site = check.place / "out" / "site"
    assert (site / "releases.html").read_text().startswith("<!doctype html>")
    if find_spec("material") is None:
        missing("mkdocs-material is not installed (pip install '.[docs]')")
    assert (site / "index.html").is_file()
    assert alarm.failed == ["Open, update or close the issue"]
    assert "opened https://github/7" in alarm.said
    [issue] = issues
    assert issue["labels"] == ["vllm-patcher-landed"]
    assert issue["body"] == check.summary
    assert "t0ken" not in alarm.said


def test_an_index_that_is_away_is_no_alarm_on_the_first_day(tmp_path: Path) -> None:
    issues: list[dict[str, Any]] = []
    yesterday = datetime.datetime.now(datetime.UTC).date() - datetime.timedelta(days=1)

    def without_a_site(place: Path) -> None:
        (place / "mkdocs.yml").unlink()

    certificate = make_certificate(tmp_path / "nobody-trusts-it")
    with serving(tracker_of(issues)) as tracker, serving(lambda _: Reply(), certificate) as wall:
        # A proxy whose certificate is not trusted: that is final, and nothing waits to try again.
        away = dict.fromkeys(("HTTPS_PROXY", "ALL_PROXY"), wall.url)
        away |= {"NO_PROXY": tracker.host, "XDG_CACHE_HOME": str(tmp_path / "cache")}
        runner = following(tmp_path / "runs", tracker, without_a_site, **away)
        check, alarm = (runner.run(LANDED[job], job) for job in ("check", "alarm"))
        assert (check.failed, alarm.failed, issues) == ([], [], []), alarm.said
        kept = tmp_path / "kept" / "alarm.json"
        state = json.loads(kept.read_text())
        state["unread"] = dict.fromkeys(state["unread"], yesterday.isoformat())
        kept.write_text(json.dumps(state))
        alarm = runner.run(LANDED["alarm"], "alarm-2")
        kept.unlink()
        third = runner.run(LANDED["alarm"], "alarm-3")
    assert json.loads((alarm.place / "alarm.json").read_text()) == state, "an alarm keeps it"
    assert "Keep since when something is unread" in alarm.ran
    assert third.failed == []
    assert alarm.failed == ["Open, update or close the issue"]
    assert f"unread since {yesterday}" in alarm.said
    assert f"could be read since {yesterday}" in issues[0]["body"]
