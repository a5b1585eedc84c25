"""A serve.yaml is wrong in the words of whoever wrote it, before anything is deployed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import ROOT
from tradewind.cluster.deploy import alone
from tradewind.cluster.plan import Plan, schema
from tradewind.cluster.settings import ApiArgs, EngineArgs
from tradewind.errors import UserError

Json = dict[str, Any]


def written(folder: Path, change: Callable[[Json], object]) -> Path:
    """The repository's serve.yaml with mock engines, changed."""
    config = yaml.safe_load((ROOT / "serve.yaml").read_text())
    engine(config)["args"] |= {"engine": "mock"}
    change(config)
    path = folder / "serve.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def engine(config: Json) -> Json:
    return next(app for app in config["applications"] if app["name"] == "engine")


def api(config: Json) -> Json:
    return next(app for app in config["applications"] if app["name"] == "api")


def test_the_repositorys_own(tmp_path: Path) -> None:
    plan = Plan.read(written(tmp_path, lambda config: None))
    assert (plan.model, plan.replicas, plan.host, plan.port) == ("mock", 2, "127.0.0.1", 8000)
    changed = plan.changed(replicas="3", port=9000, model="other", routing="round_robin", slots=2, threads=1)
    assert (changed.model, changed.replicas, changed.port) == ("other", 3, 9000)
    assert EngineArgs.of(changed.engines[0]["args"]).slots == (2,)
    assert (plan.model, plan.replicas) == ("mock", 2)


WRONG: dict[str, tuple[Callable[[Json], object], str]] = {
    "unknown key": (lambda c: c.update(proxy_locatoin="HeadOnly"), "unknown key 'proxy_locatoin'"),
    "unknown key of an application": (lambda c: engine(c).update(routeprefix="/"), "application engine: unknown key"),
    "unknown key of a deployment": (
        lambda c: engine(c)["deployments"][0].update(num_replica=2),
        "deployment Engine: unknown key 'num_replica'",
    ),
    "unknown key of HTTP": (lambda c: c["http_options"].update(prot=1), "http_options: unknown key 'prot'"),
    "unknown key of the router": (
        lambda c: engine(c)["deployments"][0]["request_router_config"].update(routre="x"),
        "deployment Engine: request_router_config: unknown key 'routre'",
    ),
    "unknown word to the router": (
        lambda c: engine(c)["deployments"][0]["request_router_config"]["request_router_kwargs"].update(rooting="x"),
        "request_router_kwargs: unknown key 'rooting'",
    ),
    "unknown deployment": (lambda c: engine(c)["deployments"][0].update(name="Engin"), "unknown deployment 'Engin'"),
    "Ray's own scaling": (lambda c: engine(c)["deployments"][0].update(num_replicas="auto"), "num_replicas: 'auto'"),
    "unknown argument": (lambda c: engine(c)["args"].update(slotz=2), "args: unknown key 'slotz'"),
    "wrong type": (lambda c: engine(c)["deployments"][0].update(num_replicas="many"), "num_replicas"),
    "unknown code": (lambda c: engine(c).update(import_path="os:system"), "unknown import_path 'os:system'"),
    "unknown engine": (lambda c: engine(c)["args"].update(engine="torch"), "unknown engine 'torch'"),
    "unknown variant": (lambda c: engine(c)["args"].update(engine="ort", model="nothere"), "unknown variant 'nothere'"),
    "no slots": (lambda c: engine(c)["args"].update(slots=[]), "args.slots"),
    "unknown routing": (
        lambda c: engine(c)["deployments"][0]["request_router_config"]["request_router_kwargs"].update(routing="x"),
        "unknown routing 'x'",
    ),
    "engines that are not there": (
        lambda c: api(c)["args"].update(engines=["gone"], aliases={}),
        "no application 'gone' of engines",
    ),
    "an alias for nobody": (lambda c: api(c)["args"].update(aliases={"a": {"engines": ["gone"]}}), "aliases.a"),
    "an alias that joins two and says nothing of it": (
        lambda c: (
            c["applications"].append({**engine(c), "name": "b", "args": {"engine": "mock", "model": "b"}}),
            api(c)["args"].update(engines=["engine", "b"], aliases={"a": {"engines": ["engine", "b"]}}),
        ),
        "args.aliases.a: names one engine, or says exact: false",
    ),
    "a wrong name of an engine, not the alias to it": (
        lambda c: api(c)["args"].update(engines=["engine2"]),
        "args.engines: no application 'engine2' of engines",
    ),
    "no such port": (lambda c: c["http_options"].update(port=80000), "http_options.port: 80000 is not in 0..65535"),
    "no proxy": (lambda c: c.update(proxy_location="Disabled"), "proxy_location: Disabled"),
    "another prefix": (lambda c: api(c).update(route_prefix="/api"), "route_prefix: the API is served at /"),
    "statistics without end": (
        lambda c: engine(c)["deployments"][0]["request_router_config"].update(request_routing_stats_period_s=0),
        "deployment Engine: request_router_config: request_routing_stats_period_s: Input should be greater than 0",
    ),
    "a router that is not there": (
        lambda c: engine(c)["deployments"][0]["request_router_config"].update(request_router_class="no.where:Router"),
        "No module named 'no'",
    ),
    "no API": (lambda c: c["applications"].remove(api(c)), "0 applications have the import_path"),
    "no engine": (lambda c: c["applications"].remove(engine(c)), "no application has the import_path"),
    "no applications": (lambda c: c.pop("applications"), "applications: Field required"),
    "one model twice": (
        lambda c: (c["applications"].append({**engine(c), "name": "again"}), api(c)["args"]["engines"].append("again")),
        "two applications serve 'mock'",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named(tmp_path: Path, name: str) -> None:
    change, words = WRONG[name]
    path = written(tmp_path, change)
    with pytest.raises(UserError) as error:
        Plan.read(path)
    assert str(error.value).startswith(f"{path}: ")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"), [("a: [", "not valid YAML"), ("- 1", "holds no deployment"), ("", "holds no")]
)
def test_what_is_no_file_of_it(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "serve.yaml"
    with pytest.raises(UserError, match="No such file"):
        Plan.read(path)
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        Plan.read(path)


def test_what_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "serve.yaml"
    path.write_bytes(b"a: \xff")
    with pytest.raises(UserError, match=r"not UTF-8 \(byte 3\)"):
        Plan.read(path)


def test_a_host_that_is_left_out_is_not_open_to_all(tmp_path: Path) -> None:
    plan = Plan.read(written(tmp_path, lambda config: config.pop("http_options")))
    assert schema(plan.config).http_options.host == plan.host == "127.0.0.1"


def test_replicas_between_two_numbers(tmp_path: Path) -> None:
    plan = Plan.read(written(tmp_path, lambda config: None))
    scaled = plan.changed(replicas="2-5")
    assert (scaled.replicas, scaled.most_replicas) == (2, 5)
    assert (scaled.changed(replicas="3").replicas, scaled.changed(replicas="3").most_replicas) == (3, 3)
    for wrong in ("0", "3-2", "many", "-1"):
        with pytest.raises(UserError, match="replicas: "):
            plan.changed(replicas=wrong)


def test_what_is_left_empty_is_as_left_out(tmp_path: Path) -> None:
    def empty(config: Json) -> None:
        engine(config)["deployments"][0].pop("request_router_config")
        api(config)["args"]["aliases"] = None

    plan = Plan.read(written(tmp_path, empty))
    assert plan.with_new_main("engine-2").engines[0]["name"] == "engine-2"


def test_room_is_for_all_engines_at_their_most(tmp_path: Path) -> None:
    def two(config: Json) -> None:
        second = {**engine(config), "name": "second", "args": {"engine": "mock", "model": "other"}}
        second["deployments"] = [{"name": "Engine", "autoscaling_config": {"min_replicas": 1, "max_replicas": 7}}]
        config["applications"].append(second)

    assert Plan.read(written(tmp_path, two)).most_replicas == 2 + 7


def test_one_update_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRADEWIND_HOME", str(tmp_path))
    with alone(), pytest.raises(UserError, match="another update is under way"), alone():
        pass
    with alone():
        pass


def test_a_new_main_engine_is_named_everywhere(tmp_path: Path) -> None:
    plan = Plan.read(written(tmp_path, lambda config: None)).changed(model="other").with_new_main("engine-2")
    args = ApiArgs.of(plan.api["args"])
    assert args.engines == args.aliases["assistant"].engines == ("engine-2",)
    assert [app["name"] for app in plan.engines] == ["engine-2"]
