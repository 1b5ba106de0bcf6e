"""`vllm-patcher smoke URL` against servers that answer as vLLM does, well and broken.

The real one is in tests/engine; here are the faults that it cannot be made to show.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest

from patcher.errors import Exit, PatcherError
from patcher.report.smoke import served_lines, step_line
from patcher.smoke.cases import State
from patcher.smoke.server import Served, Step, smoke_server
from patcher.web.openai import Generation, open_server
from patcher.web.openai import Server as OpenServer
from tests.certificates import make_certificate
from tests.commands import run
from tests.conftest import free_port
from tests.scripted import HANG_UP, Reply, Seen, serving
from tests.test_schemas import check

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KEY = "sk-secret-of-mine"
DEAD = b'{"error": {"message": "EngineCore encountered an issue.", "code": 500}}'


def event(document: Any) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def stream(prompt: int, tokens: int, cached: int | None = None) -> bytes:
    """What vLLM streams: a token an event, each with the usage so far, and `[DONE]`."""
    details = {} if cached is None else {"prompt_tokens_details": {"cached_tokens": cached}}
    events = [
        event(
            {
                "choices": [{"text": "a", "finish_reason": None}],
                "usage": {"prompt_tokens": prompt, "completion_tokens": made, **details},
            }
        )
        for made in range(1, tokens + 1)
    ]
    return b"".join([*events, b"data: [DONE]\n\n"])


@dataclass
class Vllm:
    """A server's answers; `on_long` is what it makes of a prompt of more than 1000 words.

    `hits` come from the cache for the prompt that shares a prefix, and `told` whether its answer
    says so. `others` are other people's prompts that come beside each of its tries, all cached.
    """

    owner: str = "vllm"
    health: list[int] = field(default_factory=lambda: [200])
    on_long: Callable[[bytes], Reply] = lambda body: Reply(body=body)
    hits: int = 96
    told: bool = False
    others: list[int] = field(default_factory=list)
    key: str | None = None
    asked: list[Any] = field(default_factory=list)
    queries: int = 0
    cached: int = 0

    def __call__(self, seen: Seen) -> Reply:
        if seen.path == "/health":
            return Reply(self.health.pop(0) if len(self.health) > 1 else self.health[0])
        if seen.path == "/version":
            return Reply(body=b'{"version": "0.23.0"}')
        if seen.path == "/metrics":
            counted = {"queries": self.queries, "hits": self.cached}
            lines = [
                f"# TYPE vllm:prefix_cache_{name} counter\n"
                f'vllm:prefix_cache_{name}_total{{engine="0"}} {tokens}.0\n'
                f'vllm:external_prefix_cache_{name}_total{{engine="0"}} 7.0\n'
                for name, tokens in counted.items()
            ]
            return Reply(body="".join(lines).encode())
        if self.key and seen.headers.get("authorization") != f"Bearer {self.key}":
            return Reply(401, body=b'{"error": "Unauthorized"}')
        if seen.path == "/v1/models":
            model = {"id": "tiny", "owned_by": self.owner, "max_model_len": 4096}
            return Reply(body=json.dumps({"data": [model]}).encode())
        assert seen.path == "/v1/completions"
        asked = json.loads(seen.body)
        self.asked.append(asked)
        words = len(asked["prompt"].split())
        body = stream(words, asked["max_tokens"])
        self.queries += words
        if "other" in asked["prompt"]:
            beside = self.others.pop(0) if self.others else 0
            self.queries += beside
            self.cached += self.hits + beside
            cached = self.hits if self.told else None
            return Reply(body=stream(words, asked["max_tokens"], cached))
        return self.on_long(body) if words > 1000 else Reply(body=body)


def smoke(vllm: Vllm, *, code: int) -> Any:
    with serving(vllm) as server:
        done = run("smoke", server.url, "--timeout", "20", "--json")
    return check(done.stdout, done.returncode, code), done.stderr


def tried(script: Callable[[Seen], Reply], key: str | None = None, limit: float = 20) -> Served:
    """What a server did, in this process."""
    with serving(script) as server:
        return smoke_server(open_server(server.url, key, limit), lambda _: None)


def test_a_server_that_is_well() -> None:
    vllm = Vllm()
    document, talk = smoke(vllm, code=0)
    served = document["server"]
    assert [step["state"] for step in served["steps"]] == ["passed"] * 6
    assert (served["vllm"], served["model"]) == ("0.23.0", "tiny")
    assert served["speed"]["least"] <= served["speed"]["median"] <= served["speed"]["most"]
    assert "tokens/s" in talk
    short, long, other, *measured = [asked["prompt"] for asked in vllm.asked]
    assert len(short.split()) < 200
    assert 3000 < len(long.split()) < 4096
    assert 1000 < len([*_shared(long, other)]) < len(other)
    assert len(set(measured)) == 5


def _shared(one: str, other: str) -> list[str]:
    """The characters at the beginning that two prompts share."""
    pairs = enumerate(zip(one, other, strict=False))
    end = next(at for at, (first, second) in pairs if first != second)
    return list(one[:end])


def failing(reply: Reply) -> Callable[[bytes], Reply]:
    return lambda _: reply


ERROR = event(json.loads(DEAD)) + b"data: [DONE]\n\n"
STREAMED = b"text/event-stream"


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply(500, body=DEAD), "HTTP 500 (EngineCore encountered an issue.)"),
        (Reply(500, body=b"<html>"), "HTTP 500"),
        (Reply(body=ERROR), "its stream says (EngineCore encountered an issue.)"),
        (Reply(body=event({"choices": [{"text": "a"}]})), "its stream ended before it was done"),
        (Reply(body=b"data: [DONE]\n\n"), "it ended its stream without a token"),
        (Reply(body=b"data: {\n\n"), "its stream holds something that is not JSON"),
        (Reply(body=b"x" * 100, sent=50), "the connection broke"),
        (HANG_UP, "the connection broke"),
    ],
)
def test_a_green_health_check_over_a_dead_engine(reply: Reply, reason: str) -> None:
    served = tried(Vllm(on_long=failing(reply)))
    assert [step.name for step in served.steps][-2:] == ["short prompt", "long prompt"]
    assert served.steps[-1] == Step("long prompt", State.FAILED, reason)
    assert (served.finding or "").startswith("/health is green over a dead engine")
    assert served.exit is Exit.FINDING


def test_a_health_check_that_turns_red_with_the_engine() -> None:
    vllm = Vllm(health=[200, 503], on_long=failing(Reply(500, body=DEAD)))
    document, talk = smoke(vllm, code=1)
    finding = "/health was green until the long prompt came, and answers HTTP 503 now"
    assert document["server"]["finding"] == finding
    assert finding in talk


def test_a_server_that_is_not_well_is_asked_nothing_more() -> None:
    vllm = Vllm(health=[503])
    document, _ = smoke(vllm, code=1)
    assert [step["name"] for step in document["server"]["steps"]] == ["health"]
    assert vllm.asked == []


def test_a_context_that_nothing_shows_to_be_read_is_not_passed() -> None:
    document, _ = smoke(Vllm(hits=0), code=3)
    states = {step["name"]: step["state"] for step in document["server"]["steps"]}
    assert states["shared prefix"] == "not reached"
    assert states["speed"] == "passed"


ALWAYS = [640] * 9


@pytest.mark.parametrize(
    ("vllm", "state", "said"),
    [
        (Vllm(), State.PASSED, "96 of the tokens came from the cache, as /metrics says of this"),
        (Vllm(others=[640, 64]), State.PASSED, "96 of the tokens came from the cache, as /metrics"),
        (Vllm(others=ALWAYS), State.NOT_REACHED, "/metrics counted other prompts beside it"),
        (Vllm(others=ALWAYS, told=True), State.PASSED, "96 of the tokens came from the cache, as"),
        (Vllm(others=ALWAYS, told=True, hits=0), State.NOT_REACHED, "as its answer says: no conte"),
        (Vllm(hits=2500), State.NOT_REACHED, "too short to be read as a prompt"),
    ],
    ids=["alone", "busy at first", "busy", "busy, told", "busy, told none", "little new"],
)
def test_other_peoples_hits_are_not_ours(vllm: Vllm, state: State, said: str) -> None:
    served = tried(vllm)
    [step] = [step for step in served.steps if step.name == "shared prefix"]
    assert step.state is state
    assert said in step.said


def always(status: int, body: bytes = b"", **headers: str) -> Callable[[Seen], Reply]:
    return lambda _: Reply(status, dict(headers), body)


def broken_models(status: int) -> Callable[[Seen], Reply]:
    return lambda seen: Reply(200 if seen.path == "/health" else status)


ELSEWHERE = "https://me:word@vllm.example/api?token=sk-secret-of-mine"


@pytest.mark.parametrize(
    ("script", "problem", "next_step"),
    [
        (
            Vllm(owner="library"),
            "is not a vLLM server: its models are owned by 'library'",
            "itself",
        ),
        (Vllm(owner=""), "lists no model of vLLM's", "itself"),
        (always(404, b"<html>no</html>"), "no model of vLLM's (HTTP 404)", "itself"),
        (always(200, b"<!doctype html>"), "no model of vLLM's (HTTP 200)", "itself"),
        (always(200, b'{"data": []}'), "no model of vLLM's (HTTP 200)", "itself"),
        (always(200, b" " * (9 << 20)), "no model of vLLM's (HTTP 200)", "itself"),
        (
            broken_models(502),
            "/v1/models: HTTP 502: whether it is vLLM cannot be seen",
            "its own log",
        ),
        (
            always(301, Location=ELSEWHERE),
            "leads to https://vllm.example/api (HTTP 301)",
            "Give that",
        ),
        (always(401), "does not take the key in VLLM_API_KEY (HTTP 401)", "Set VLLM_API_KEY to"),
        (lambda _: HANG_UP, "no server to try: the connection broke", "Start it"),
    ],
)
def test_what_is_not_seen_to_be_vllm_is_not_tried(
    script: Callable[[Seen], Reply], problem: str, next_step: str
) -> None:
    with pytest.raises(PatcherError) as caught:
        tried(script, KEY)
    assert caught.value.exit_code is Exit.UNDECIDED
    assert problem in caught.value.problem
    assert next_step in caught.value.next_step
    assert "word" not in str(caught.value)
    assert KEY not in str(caught.value)


def test_a_certificate_that_is_not_trusted(tmp_path: Path) -> None:
    with serving(Vllm(), make_certificate(tmp_path)) as server:
        tls = open_server(server.url, KEY, 20)
        with pytest.raises(PatcherError, match="its certificate is not trusted") as caught:
            smoke_server(tls, lambda _: None)
    assert "SSL_CERT_FILE" in caught.value.next_step
    assert "--ca-file" not in caught.value.next_step
    assert server.seen == []


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply(400, body=b'{"error": {"message": "too long"}}'), "HTTP 400 (too long): it was not"),
        (Reply(307, {"Location": ELSEWHERE}), "HTTP 307 to https://vllm.example/api: it was not"),
    ],
)
def test_a_prompt_that_is_not_taken_says_nothing_about_the_engine(reply: Reply, said: str) -> None:
    served = tried(Vllm(on_long=failing(reply)))
    assert (served.steps[-1].name, served.steps[-1].state) == ("long prompt", State.NOT_REACHED)
    assert served.steps[-1].said.startswith(said)
    assert served.exit is Exit.UNDECIDED
    assert served.finding is None


class Hasty(OpenServer):
    """It gives the long prompt a second; the rest may take longer on a busy machine."""

    def complete(self, model: str, prompt: str, tokens: int) -> Generation:
        seconds = 1 if len(prompt.split()) > 1000 else self.limit
        return OpenServer.complete(replace(self, limit=seconds), model, prompt, tokens)


def test_an_engine_that_does_not_come_back_is_not_called_dead() -> None:
    over = threading.Event()

    def never(_: bytes) -> Reply:
        over.wait()
        return HANG_UP

    with serving(Vllm(on_long=never)) as server:
        asked = open_server(server.url, None, 60)
        hasty = Hasty(asked.url, None, asked.limit, asked.session)
        served = smoke_server(hasty, lambda _: None)
        over.set()
    assert served.exit is Exit.FINDING
    assert served.finding == (
        "/health is green, and the long prompt had no end in 60 s: the engine hangs, or has more "
        "to do than --timeout allows for"
    )


def test_a_server_whose_health_is_not_to_be_had() -> None:
    served = tried(Vllm(health=[404]))
    assert [step.state for step in served.steps] == [State.NOT_REACHED, *[State.PASSED] * 5]
    assert served.exit is Exit.UNDECIDED
    dead = tried(Vllm(health=[404], on_long=failing(Reply(500, body=DEAD))))
    assert dead.finding == "the long prompt failed; /health says nothing here"


def test_a_key_comes_from_the_environment_and_is_never_shown() -> None:
    with serving(Vllm(key=KEY)) as server:
        without = run("smoke", server.url, VLLM_API_KEY="")
        wrong = run("smoke", server.url, VLLM_API_KEY="sk-another-key")
        right = run("smoke", server.url, VLLM_API_KEY=KEY)
    assert (without.returncode, wrong.returncode, right.returncode) == (3, 3, 0)
    assert "Set VLLM_API_KEY" in without.stderr
    shown = wrong.stdout + wrong.stderr + right.stdout + right.stderr
    assert "sk-" not in shown


@pytest.mark.parametrize(
    "echo",
    [
        Reply(500, body=json.dumps({"error": {"message": f"bad key {KEY}"}}).encode()),
        Reply(500, body=b'{"error": "sk-\\u0073ecret-of-mine"}'),
        Reply(body=event({"error": {"message": KEY}})),
    ],
)
def test_a_server_that_sends_the_key_back_does_not_make_us_show_it(echo: Reply) -> None:
    vllm = Vllm(key=KEY, on_long=failing(echo))
    with serving(vllm) as server:
        done = [run("smoke", server.url, *more, VLLM_API_KEY=KEY) for more in ((), ("--json",))]
    assert [each.returncode for each in done] == [1, 1]
    shown = "".join(each.stdout + each.stderr for each in done)
    assert "***" in shown
    assert KEY not in shown


@pytest.mark.parametrize("well", [True, False])
def test_nor_one_that_calls_itself_by_the_key(well: bool) -> None:
    def script(seen: Seen) -> Reply:
        if seen.path == "/version":
            return Reply(body=json.dumps({"version": KEY}).encode())
        if seen.path == "/v1/models":
            model = {"id": f"m-{KEY}", "owned_by": "vllm" if well else KEY}
            return Reply(body=json.dumps({"data": [model]}).encode())
        return Vllm()(seen)

    with serving(script) as server:
        done = run("smoke", server.url, "--json", VLLM_API_KEY=KEY)
    assert "***" in done.stdout + done.stderr
    assert KEY not in done.stdout + done.stderr


HUGE = 10**400


@pytest.mark.parametrize(
    "reply",
    [
        Reply(body=b"data: " + b"x" * (3 << 20)),
        Reply(body=b"data: x\n" * (2 << 20)),
        Reply(body=event({"choices": [{}], "usage": [HUGE]}) + b"data: [DONE]\n"),
        Reply(
            body=event(
                {"choices": [{}], "usage": {"completion_tokens": HUGE, "prompt_tokens": HUGE}}
            )
            + b"data: [DONE]\n"
        ),
        Reply(body=b"data: " + b"[" * 100_000 + b"\n"),
        Reply(500, body=b'{"error": ' + b'{"message":' * 100_000),
        Reply(200, {"Content-Encoding": "gzip"}, b"\x1f\x8bx"),
        Reply(500, body=json.dumps({"error": {"message": "\n::add-mask::x\x1b[2J"}}).encode()),
    ],
    ids=["line", "lines", "list", "number", "depth", "error", "gzip", "escape"],
)
def test_whatever_a_server_sends_ends_in_a_step(reply: Reply) -> None:
    served = tried(Vllm(on_long=failing(reply)))
    for line in (*map(step_line, served.steps), *served_lines(served)):
        assert line.isprintable()
        assert not line.startswith("::")


@pytest.mark.parametrize("most", [HUGE, -1, True, "x", 1e400])
def test_a_length_that_is_none_is_left_out(most: object) -> None:
    def script(seen: Seen) -> Reply:
        if seen.path == "/v1/models":
            model = {"id": "tiny", "owned_by": "vllm", "max_model_len": most}
            return Reply(body=json.dumps({"data": [model]}).encode())
        if seen.path == "/metrics":
            return Reply(body=b"vllm:prefix_cache_hits_total inf\n")
        return vllm(seen)

    vllm = Vllm()
    served = tried(script)
    assert served.max_model_len is None
    assert served.steps[-2].state is State.NOT_REACHED
    assert served.exit is Exit.UNDECIDED


def test_nobody_answers() -> None:
    done = run("smoke", f"http://127.0.0.1:{free_port()}")
    assert done.returncode == 3
    assert "no server to try: the connection is refused" in done.stderr


def test_a_server_without_its_scheme_is_no_image_alone() -> None:
    done = run("smoke", "127.0.0.1:8000", DOCKER_HOST="unix:///none.sock")
    assert done.returncode == 3
    assert "If it is a server, name it by its address: http://127.0.0.1:8000" in done.stderr


@pytest.mark.parametrize("url", ["http://user:word@127.0.0.1:1", "http://[x"])
def test_an_address_that_is_none(url: str) -> None:
    done = run("smoke", url)
    assert done.returncode == 2
    assert "word" not in done.stderr


def test_the_address_of_the_api_will_do() -> None:
    with serving(Vllm()) as server:
        assert run("smoke", f"{server.url}/v1/").returncode == 0
