"""Other people's clients against this project's server, unchanged: the `openai` package, `llm`, NVIDIA's AIPerf.

    python -m benchmarks.outside_clients [--variant teacher-int8] [--llm PATH] [--aiperf PATH] [--seconds 30]

1. A server is started on the variant, with `--threads` of the machine: AIPerf is several processes, which take a core, and
   where the server's threads want that too, it is the clients that are compared and not what they say.
2. `openai` and `llm` do what their users do; every outcome is checked.
3. AIPerf and this project's own load test (loadtests/steady.py) take turns at the same load: as many streamed chats at
   once, prompts of about and answers of exactly as many tokens (see `benchmarks.aiperf`).
4. AIPerf drives `/v1/completions`.

All goes to reports/benchmarks/outside_clients.json; exit code 1 says that a check failed. A client that is not here is
left out, and a line says how to get it. Not covered: what is not served (tools, images, moderations), API keys, arrivals
at a fixed rate, and how good answers are.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import openai
from pydantic import BaseModel

from benchmarks.aiperf import Load, Seen, Target, compare, profile, ratio_lines, summarize
from benchmarks.programs import command, outside, version_of
from tradewind import host
from tradewind.config import run
from tradewind.errors import UserError
from tradewind.files import write_json
from tradewind.load.server import started
from tradewind.tracking import Measurement, git_commit, record_run

GET_LLM = (
    "llm is not here and is left out. Get it, outside this project's environment, with: python3.11 -m venv .venv-llm "
    "&& .venv-llm/bin/pip install llm==0.36, then pass --llm .venv-llm/bin/llm"
)
GET_AIPERF = (
    "aiperf is not here and is left out. Get it, outside this project's environment, with: python3.11 -m venv "
    ".venv-aiperf && .venv-aiperf/bin/pip install aiperf==0.13.0, then pass --aiperf .venv-aiperf/bin/aiperf"
)
OPENAI_S = 120
"""Seconds that one call may take."""
ASK = "What does numpy.argsort return?"
SCHEMA = {
    "type": "object",
    "properties": {
        "size": {"enum": ["small", "large"]},
        "legs": {"type": "integer", "minimum": 0, "maximum": 9},
    },
    "required": ["size", "legs"],
    "additionalProperties": False,
}
"""Bounded, so that any model's answer is whole within a hundred tokens."""


@dataclass(frozen=True)
class Check:
    """One thing that a client's user expects. said: what came, shortened."""

    client: str
    what: str
    passed: bool
    said: str


class Animal(BaseModel):
    size: Literal["small", "large"]
    legs: int


def main() -> None:
    given = arguments()
    load = Load(given.seconds, given.repeats, tuple(given.streams), 128, 64)
    llm, aiperf = find("llm", given.llm, GET_LLM), find("aiperf", given.aiperf, GET_AIPERF)
    options = ["--model", given.variant, "--engine", "ort", "--variants", str(given.variants)]
    options += ["--threads", str(given.threads)]
    pairs: dict[int, list[tuple[Seen, Seen]]] = {}
    with started(options) as url, tempfile.TemporaryDirectory() as scratch:
        checks = openai_checks(url, given.variant)
        checks += llm_checks(llm, url, given.variant, Path(scratch)) if llm else []
        if aiperf:
            target = Target(aiperf, url, given.variant, given.variants / given.variant, Path(scratch))
            pairs = compare(target, load)
            checks += [
                one for streams in pairs for pair in pairs[streams] for one in load_checks(pair[0], load, "chat")
            ]
            checks += load_checks(profile(target, "completions", 1, load), load, "completions")
    results = {str(streams): summarize(found) for streams, found in pairs.items()}
    print("\n".join([*(line(one) for one in checks), *(ratio_lines(results))]))
    write(
        given,
        load,
        {"openai": version("openai"), "llm": version_of(llm), "aiperf": version_of(aiperf)},
        checks,
        results,
    )
    if failed := sum(not one.passed for one in checks):
        raise SystemExit(f"{failed} of {len(checks)} checks failed")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Other people's clients against this project's server.")
    parser.add_argument("--variant", default="teacher-int8")
    parser.add_argument("--variants", type=Path, default=Path("artifacts/variants"))
    parser.add_argument("--llm", help="executable (default: on PATH)")
    parser.add_argument("--aiperf", help="executable (default: on PATH)")
    parser.add_argument("--seconds", type=int, default=30, help="of each run of a load")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=max(1, (os.cpu_count() or 2) // 2), help="of the server")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8], help="requests at once")
    parser.add_argument("--out", type=Path, default=Path("reports/benchmarks/outside_clients.json"))
    return parser.parse_args()


def find(name: str, given: str | None, get_it: str) -> str | None:
    """The executable; None, with a line on how to get it, where there is none. Raises UserError for a wrong path."""
    if given and not os.access(given, os.X_OK):
        raise UserError(f"{given}: no such executable. {get_it}")
    found = given or shutil.which(name)
    if not found:
        print(get_it, file=sys.stderr)
    return found


def attempt(client: str, what: str, act: Callable[[], tuple[bool, object]]) -> Check:
    """`act` gives whether all is as it should be, and what came; what it raises is a failure too."""
    try:
        passed, said = act()
    except (openai.OpenAIError, UserError, ValueError, LookupError, AssertionError) as error:
        passed, said = False, f"{type(error).__name__}: {error}"
    return Check(client, what, passed, " ".join(str(said).split())[:160])


def openai_checks(url: str, model: str) -> list[Check]:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=OPENAI_S)
    acts: dict[str, Callable[[], tuple[bool, object]]] = {
        "models": lambda: _models(client, model),
        "chat": lambda: _chat(client, model),
        "streamed chat": lambda: _stream(client, model),
        "parsed answer": lambda: _parsed(client, model),
        "completions": lambda: _completion(client, model),
        "moderations are not served": lambda: _refused(
            openai.NotFoundError, "unknown_url", lambda: client.moderations.create(input="x")
        ),
    }
    return [attempt("openai", what, act) for what, act in acts.items()]


def _ask(model: str, **more: Any) -> dict[str, Any]:
    said = [{"role": "user", "content": ASK}]
    return {"model": model, "messages": said, "temperature": 0, "max_tokens": 32, **more}


def _models(client: openai.OpenAI, model: str) -> tuple[bool, object]:
    names = [one.id for one in client.models.list()]
    return model in names, names


def _chat(client: openai.OpenAI, model: str) -> tuple[bool, object]:
    reply = client.chat.completions.create(**_ask(model))
    usage, choice = reply.usage, reply.choices[0]
    assert usage is not None
    added_up = usage.total_tokens == usage.prompt_tokens + usage.completion_tokens and usage.completion_tokens <= 32
    return bool(choice.message.content) and added_up and choice.finish_reason in ("stop", "length"), reply.choices[0]


def _stream(client: openai.OpenAI, model: str) -> tuple[bool, object]:
    """Greedy, so that the pieces are the text that comes in one."""
    whole = client.chat.completions.create(**_ask(model))
    chunks = list(client.chat.completions.create(**_ask(model, stream=True, stream_options={"include_usage": True})))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    counted, streamed = whole.usage, chunks[-1].usage
    assert counted is not None and streamed is not None
    return streamed.completion_tokens == counted.completion_tokens and text == whole.choices[0].message.content, text


def _parsed(client: openai.OpenAI, model: str) -> tuple[bool, object]:
    asked = _ask(model, max_tokens=100, response_format=Animal)
    found = client.chat.completions.parse(**asked).choices[0].message.parsed
    return isinstance(found, Animal), found


def _completion(client: openai.OpenAI, model: str) -> tuple[bool, object]:
    reply = client.completions.create(
        model=model, prompt="def add(a, b):", max_tokens=8, temperature=0, extra_body={"ignore_eos": True}
    )
    assert reply.usage is not None
    return bool(reply.choices[0].text) and reply.usage.completion_tokens == 8, reply.choices[0].text


def _refused(kind: type[openai.APIStatusError], code: str, act: Callable[[], object]) -> tuple[bool, object]:
    try:
        return False, act()
    except kind as error:
        return error.code == code, error


def llm_checks(llm: str, url: str, model: str, scratch: Path) -> list[Check]:
    """In a configuration of its own; `llm logs` then tells what the server counted."""
    home = scratch / "llm"
    home.mkdir()
    entry = {"model_name": model, "api_base": f"{url}/v1", "api_key_name": "tradewind"}
    models = [
        {"model_id": "served", "supports_schema": True, **entry},
        {"model_id": "served-text", "completion": True, **entry},
    ]
    (home / "extra-openai-models.yaml").write_text(json.dumps(models), encoding="utf-8")  # JSON is YAML
    env = outside(LLM_USER_PATH=str(home), OPENAI_API_KEY="")
    short = ("-o", "temperature", "0", "-o", "max_tokens", "32")

    def ask(*words: str) -> dict[str, Any]:
        """The last log entry; `text` is what was printed."""
        text = command([llm, *words], env).strip()
        (entry,) = json.loads(command([llm, "logs", "-n", "1", "--json"], env))
        return dict(entry) | {"text": text}

    def streamed() -> tuple[bool, object]:
        whole, pieces = (ask("-m", "served", *way, *short, ASK) for way in (("--no-stream",), ()))
        same = whole["text"] == pieces["text"] == whole["response"]
        return same and whole["text"] != "" and whole["output_tokens"] == pieces["output_tokens"] <= 32, pieces["text"]

    def systems() -> tuple[bool, object]:
        """The template has a system prompt of its own where none is given: two are compared."""
        ways = ("Answer.", "Answer with one word, and if you do not know it, then say so with one word, too.")
        terse, wordy = (ask("-m", "served", *short, "-s", way, ASK) for way in ways)
        return wordy["text"] != "" and wordy["input_tokens"] > terse["input_tokens"] + 10, wordy["text"]

    def continued() -> tuple[bool, object]:
        first, second = ask("-m", "served", *short, ASK), ask("-c", *short, "And numpy.sort?")
        joined = first["conversation_id"] == second["conversation_id"]
        return joined and second["text"] != "" and second["input_tokens"] > first["input_tokens"], second["text"]

    def by_schema() -> tuple[bool, object]:
        options = ("--schema", json.dumps(SCHEMA), "-o", "max_tokens", "100")
        found = ask("-m", "served", *options, "Invent an animal.")["text"]
        Animal.model_validate_json(found, strict=True)
        return set(json.loads(found)) == {"size", "legs"}, found

    def completed() -> tuple[bool, object]:
        """llm keeps no usage of completion models."""
        found = ask("-m", "served-text", *short, "def add(a, b):")
        return found["text"] != "" and found["text"] == found["response"].strip(), found["text"]

    command([llm, "keys", "set", "tradewind", "--value", "none"], env)
    acts = {"chat, whole and streamed": streamed, "system prompt": systems, "conversation (-c)": continued}
    acts |= {"--schema": by_schema, "completion model": completed}
    return [attempt("llm", what, act) for what, act in acts.items()]


def load_checks(seen: Seen, load: Load, endpoint: str) -> list[Check]:
    good = seen.failures == 0 and seen.requests > 0
    exact = seen.answer_tokens == load.answer_tokens and seen.prompt_tokens >= load.prompt_tokens
    said = f"{seen.requests} requests, {seen.failures} failures"
    tokens = f"{seen.prompt_tokens:g} in, {seen.answer_tokens:g} out"
    return [
        Check("aiperf", f"{endpoint}: no failure", good, said),
        Check("aiperf", f"{endpoint}: tokens as asked", exact, tokens),
    ]


def line(check: Check) -> str:
    return f"{'ok    ' if check.passed else 'FAILED'} {check.client}, {check.what}: {check.said}"


def write(
    given: argparse.Namespace,
    load: Load,
    versions: Mapping[str, str | None],
    checks: Sequence[Check],
    results: Mapping[str, Any],
) -> None:
    """The report and the run's record."""
    facts = {"device": host.device(), "git_commit": git_commit(), "variant": given.variant, "versions": versions}
    facts |= {"server_threads": given.threads}
    found = {"load": asdict(load), "checks": [asdict(one) for one in checks], "streams": results}
    write_json(given.out, facts | found)
    path = given.out.parent.parent / "runs" / f"outside_clients-{given.variant}.json"
    tags = {"engine": "ort"} | {name: said for name, said in versions.items() if said}
    with record_run(
        stage="outside_clients", question="serving", variant=given.variant, params=asdict(load), tags=tags, path=path
    ) as made:
        passed = sum(one.passed for one in checks)
        made.log(Measurement("checks_passed", passed, "checks", len(checks), formula="of all checks of all clients"))
        for streams, row in results.items():
            for name, ratio in row["ratios"].items():
                formula = f"median over repeats of AIPerf's / the load test's {name}, {streams} requests at once"
                made.log(Measurement(f"{name}_ratio_at_{streams}", ratio, "1", load.repeats, formula=formula))
        made.artifact(given.out)


if __name__ == "__main__":
    run(main)
