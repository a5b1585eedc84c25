"""The API over two replicas on Ray Serve, as its clients see it."""

import re
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import httpx
import openai
import pytest

from tests.cluster.conftest import Running
from tests.serving.conftest import WAIT, serving
from tradewind.engine.mock import MockEngine
from tradewind.serving.settings import ServeSettings

pytestmark = pytest.mark.timeout(300)
MESSAGES = [{"role": "user", "content": "Tell me"}]
JSON = {
    "type": "json_schema",
    "json_schema": {"name": "a", "schema": {"type": "object", "properties": {"b": {"const": 1}}}},
}
CALLS = {
    "plain": {"max_tokens": 40},
    "drawn": {"max_tokens": 40, "temperature": 1.2, "seed": 7, "n": 2},
    "scored": {"max_tokens": 12, "logprobs": True, "top_logprobs": 2},
    "stopped": {"max_tokens": 200, "stop": ["e"], "temperature": 1, "seed": 3},
    "structured": {"max_tokens": 60, "response_format": JSON},
}


@pytest.mark.parametrize("name", CALLS)
def test_answers_are_those_of_one_process(cluster: Running, name: str) -> None:
    options = {"model": "mock", "messages": MESSAGES, "temperature": 0, **CALLS[name]}
    here = cluster.client().chat.completions
    with serving(MockEngine(slots=4, max_len=2048), ServeSettings()) as alone:
        want = alone.client().chat.completions.create(**options)
    made = here.create(**options)
    assert made.choices == want.choices
    assert made.usage.completion_tokens == want.usage.completion_tokens
    assert made.system_fingerprint == want.system_fingerprint
    texts = Counter[int]()
    streamed: dict[int, str] = {}
    for chunk in here.create(**options, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] = streamed.get(choice.index, "") + (choice.delta.content or "")
            texts[choice.index] += choice.finish_reason is not None
    assert streamed == {choice.index: choice.message.content for choice in want.choices}
    assert set(texts.values()) == {1}


def test_many_prompts_of_one_call_run_at_once(cluster: Running) -> None:
    """None waits for another until it is taken for lost."""
    options = {
        "model": "mock",
        "prompt": [f"prompt {place}" for place in range(12)],
        "max_tokens": 20,
        "temperature": 0,
    }
    with serving(MockEngine(slots=4, max_len=2048), ServeSettings()) as alone:
        want = alone.client().completions.create(**options)
    before = failovers(cluster)
    made = cluster.client().completions.create(**options)
    assert made.choices == want.choices
    assert failovers(cluster) == before


def failovers(cluster: Running) -> float:
    lines = httpx.get(f"{cluster.url}/metrics", timeout=WAIT).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("tradewind_failovers_total{"))


def test_refusals_have_their_shape(cluster: Running) -> None:
    client = cluster.client()
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model="mock", messages=MESSAGES, max_tokens=100_000)
    assert error.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError, match="'mock', 'assistant'"):
        client.chat.completions.create(model="other", messages=MESSAGES)


def test_an_alias_answers_as_its_model(cluster: Running) -> None:
    client = cluster.client()
    models = {one.id: one for one in client.models.list()}
    assert models["assistant"].model_extra["models"] == ["mock"]
    reply = client.chat.completions.create(model="assistant", messages=MESSAGES, max_tokens=3)
    assert reply.model == "mock"


def test_probes_and_metrics(cluster: Running) -> None:
    cluster.client().chat.completions.create(model="mock", messages=MESSAGES, max_tokens=3, temperature=0)
    with httpx.Client(base_url=cluster.url, timeout=WAIT) as http:
        assert http.get("/health").status_code == http.get("/ready").status_code == 200
        numbers = http.get("/metrics").text
    assert re.search(r'vllm:generation_tokens_total\{model_name="mock"\} [1-9]', numbers)
    assert re.search(r'vllm:time_to_first_token_seconds_count\{model_name="mock"\} [1-9]', numbers)


def command(cluster: Running, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tradewind.cluster", *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.slow
def test_no_request_fails_while_the_model_is_replaced(cluster: Running, tmp_path: Path) -> None:
    """Nor while a replacement that does not come up is taken back."""
    stop = threading.Event()
    models, failed = Counter[str](), []

    def ask() -> None:
        client = cluster.client()
        while not stop.is_set():
            try:
                reply = client.chat.completions.create(model="assistant", messages=MESSAGES, max_tokens=50)
                models[reply.model] += 1
            except openai.OpenAIError as error:
                failed.append(error)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        broken = command(
            cluster, "update", "--model", "broken", "--engine", "ort", "--variants", str(broken_in(tmp_path))
        )
        after_broken = set(models)
        replaced = command(cluster, "update", "--model", "second")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert broken.returncode == 2
    assert "did not come up: " in broken.stderr
    assert len(broken.stderr.strip().splitlines()) == 1
    assert after_broken == {"mock"}
    assert replaced.returncode == 0, replaced.stderr
    assert set(models) == {"mock", "second"}
    assert not failed
    assert "Engine: 2 replicas (HEALTHY)" in command(cluster, "status").stdout


def broken_in(folder: Path) -> Path:
    """A folder with a variant whose manifest is there and nothing else of it."""
    (folder / "broken").mkdir()
    (folder / "broken" / "manifest.json").write_text("{}")
    return folder
