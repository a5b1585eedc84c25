"""A `serve.yaml`: Ray Serve's own format with our two kinds of applications, checked before anything is deployed.

Ray ignores keys that it does not know; here they are errors, as are wrong values of ours, variants that are not there, and
engines that the API names and the file has not.
"""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from ray.serve.config import AutoscalingConfig, ProxyLocation, RequestRouterConfig
from ray.serve.schema import DeploymentSchema, HTTPOptionsSchema, ServeApplicationSchema, ServeDeploySchema

from tradewind.cluster.routing import strategy
from tradewind.cluster.settings import ApiArgs, EngineArgs, engines_of
from tradewind.config import read_params
from tradewind.errors import UserError
from tradewind.serving.__main__ import run_folder
from tradewind.serving.settings import ServeSettings
from tradewind.serving.variants import named

API, ENGINE = "tradewind.cluster.app:api", "tradewind.cluster.app:engine"
"""The import paths of the applications."""
Json = dict[str, Any]
M = TypeVar("M", bound=BaseModel)
INNER = {"autoscaling_config": AutoscalingConfig, "request_router_config": RequestRouterConfig}
DEPLOYMENTS = {API: "Api", ENGINE: "Engine"}
"""Of each kind of application, its only one."""
SCALING: Json = {
    "policy": {"policy_function": "tradewind.cluster.scaling:by_wait", "policy_kwargs": {"goal_s": 1.0}},
    "look_back_period_s": 20,
    "upscale_delay_s": 10,
    "downscale_delay_s": 120,
}


@dataclass(frozen=True)
class Plan:
    """What is to be deployed. config: of `ServeDeploySchema`, models named, folders absolute."""

    config: Json
    profile: str

    @classmethod
    def read(
        cls, path: Path, profile: str | None = None, planned: Mapping[str, Any] | None = None, **changes: Any
    ) -> "Plan":
        """changes: as of `changed`. Raises UserError naming the file and what is wrong with it."""
        try:
            config = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 (byte {error.start})") from None
        except yaml.YAMLError as error:
            raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
        folder = run_folder(profile)
        params = read_params(folder / "params.yaml") if (folder / "params.yaml").is_file() else {}
        serve = {
            **params.get("serve", {}),
            **(planned or {}),
            "variants": str((folder / ServeSettings.variants).resolve()),
        }
        try:
            return cls._checked(config, serve, profile or str(params.get("profile", "cpu")), changes)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None

    @classmethod
    def _checked(cls, config: Any, serve: Mapping[str, Any], profile: str, changes: Json) -> "Plan":
        schema(config)
        config = deepcopy(config)
        config.setdefault("http_options", {}).setdefault("host", "127.0.0.1")  # Serve's own default is open to all
        for app in config["applications"]:
            app["args"] = {**serve, **app.get("args", {})}
        return cls(config, profile).changed(**changes)

    def changed(
        self,
        *,
        replicas: str | None = None,
        port: int | None = None,
        model: str | None = None,
        engine: str | None = None,
        routing: str | None = None,
        slots: int | None = None,
        threads: int | None = None,
        variants: str | None = None,
    ) -> "Plan":
        """With other values: of the main engine's application, but for the port. replicas: a number, or "1-4", between
        which they follow the wait. Raises UserError."""
        config = deepcopy(self.config)
        plan = replace(self, config=config)
        if port is not None:
            config.setdefault("http_options", {})["port"] = port
        main = plan.engines[0]
        given = {"model": model or (engine and "champion"), "engine": engine, "slots": slots, "threads": threads}
        given["variants"] = variants and str(Path(variants).resolve())
        main["args"].update({name: value for name, value in given.items() if value is not None})
        deployment = _deployment(main, "Engine")
        if replicas is not None:
            _scale(deployment, replicas)
        if routing is not None:
            _router(deployment)["request_router_kwargs"]["routing"] = routing
        plan._check()
        return plan

    def with_new_main(self, name: str) -> "Plan":
        """The main engine's application under another name, wherever it is named."""
        config = deepcopy(self.config)
        plan = replace(self, config=config)
        main, args = plan.engines[0], plan.api["args"]
        old = main["name"]
        for holder in (args, *(args.get("aliases") or {}).values()):
            holder["engines"] = [name if one == old else one for one in holder["engines"]]
        main["name"] = name
        return plan

    def beside(self, app: Json) -> Json:
        """Its config, with one application more."""
        return {**self.config, "applications": [*self.config["applications"], app]}

    def _check(self) -> None:
        """Names what models are called, too."""
        schema(self.config)
        if not 0 <= self.port <= 65535:
            raise UserError(f"http_options.port: {self.port} is not in 0..65535")
        known = {app["name"] for app in self.engines}
        for name in engines_of(self.api["args"]):
            if name not in known:
                raise UserError(
                    f"args.engines: no application {name!r} of engines (choices: {', '.join(sorted(known))})"
                )
        ApiArgs.of(self.api["args"])
        for app in self.engines:
            _counts(app)
            args = EngineArgs.of(app["args"])
            app["args"]["model"] = named(args.settings, self.profile)
            deployment = _deployment(app, "Engine")
            kwargs = _router(deployment)["request_router_kwargs"]
            if unknown := sorted(set(kwargs) - {"routing", "seed"}):
                raise UserError(f"request_router_kwargs: unknown key {unknown[0]!r} (choices: routing, seed)")
            strategy(str(kwargs.get("routing", "power_of_two")))
        models = [app["args"]["model"] for app in self.engines]
        if twice := sorted({name for name in models if models.count(name) > 1}):
            raise UserError(f"two applications serve {twice[0]!r}")

    @property
    def engines(self) -> list[Json]:
        """Applications of engines, those that the API names first, in its order."""
        found = [app for app in self.config["applications"] if app["import_path"] == ENGINE]
        if not found:
            raise UserError(f"no application has the import_path {ENGINE}")
        order = list(self.api["args"].get("engines", ()))
        return sorted(found, key=lambda app: order.index(app["name"]) if app["name"] in order else len(order))

    @property
    def api(self) -> Json:
        found = [app for app in self.config["applications"] if app["import_path"] == API]
        if len(found) != 1:
            raise UserError(f"{len(found)} applications have the import_path {API}, not one")
        return found[0]

    @property
    def model(self) -> str:
        return str(self.engines[0]["args"]["model"])

    @property
    def replicas(self) -> int:
        """Of the main engine, at first."""
        return _counts(self.engines[0])[0]

    @property
    def most_replicas(self) -> int:
        """Of all engines together."""
        return sum(max(_counts(app)) for app in self.engines)

    @property
    def host(self) -> str:
        return str(self.config.get("http_options", {}).get("host", "127.0.0.1"))

    @property
    def port(self) -> int:
        return int(self.config.get("http_options", {}).get("port", 8000))

    @property
    def drain_seconds(self) -> int:
        return ApiArgs.of(self.api["args"]).settings.drain_seconds

    @property
    def keys_file(self) -> str:
        return ApiArgs.of(self.api["args"]).settings.keys_file


def schema(config: Any) -> ServeDeploySchema:
    """Raises UserError with the first fault."""
    if not isinstance(config, Mapping):
        raise UserError("holds no deployment")
    for kind, part, where in parts(config):
        if unknown := sorted(set(part) - set(kind.model_fields)):
            raise UserError(f"{where}unknown key {unknown[0]!r} (choices: {', '.join(sorted(kind.model_fields))})")
    made = _valid(ServeDeploySchema, config, "")
    for kind, part, where in parts(config):
        if kind in INNER.values():  # which the schema takes as they come
            _valid(kind, part, where)
    if made.proxy_location is ProxyLocation.Disabled:
        raise UserError("proxy_location: Disabled leaves nobody to take calls (choices: HeadOnly, EveryNode)")
    for app in made.applications:
        if app.import_path not in (API, ENGINE):
            raise UserError(
                f"application {app.name}: unknown import_path {app.import_path!r} (choices: {API}, {ENGINE})"
            )
        if app.import_path == API and app.route_prefix != "/":
            raise UserError(f"application {app.name}: route_prefix: the API is served at /, not {app.route_prefix!r}")
        own = DEPLOYMENTS[app.import_path]
        if other := [one.name for one in app.deployments if one.name != own]:
            raise UserError(f"application {app.name}: unknown deployment {other[0]!r} (choices: {own})")
    return made


def _valid(kind: type[M], part: Mapping[str, Any], where: str) -> M:
    """Raises UserError with the first fault."""
    try:
        return kind.model_validate(dict(part))
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{where}{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except (ValueError, TypeError, ImportError, AttributeError) as error:  # of a class that is named and not there
        raise UserError(f"{where}{error}") from None


def parts(config: Mapping[str, Any]) -> Iterator[tuple[type[BaseModel], Mapping[str, Any], str]]:
    """The mappings of a file that Ray would take unknown keys in, each with its model and how to name it."""
    yield ServeDeploySchema, config, ""
    yield from _inner({"http_options": HTTPOptionsSchema}, config, "")
    apps = config.get("applications")
    for app in apps if isinstance(apps, list) else ():
        if not isinstance(app, Mapping):
            continue
        yield ServeApplicationSchema, app, f"application {app.get('name', '?')}: "
        deployments = app.get("deployments")
        for one in deployments if isinstance(deployments, list) else ():
            if isinstance(one, Mapping):
                where = f"deployment {one.get('name', '?')}: "
                yield DeploymentSchema, one, where
                yield from _inner(INNER, one, where)


def _inner(
    kinds: Mapping[str, type[BaseModel]], held: Mapping[str, Any], where: str
) -> Iterator[tuple[type[BaseModel], Mapping[str, Any], str]]:
    for name, kind in kinds.items():
        if isinstance(held.get(name), Mapping):
            yield kind, held[name], f"{where}{name}: "


def _deployment(app: Json, name: str) -> Json:
    """The settings of an application's deployment, made where there are none."""
    deployments: list[Json] = app.setdefault("deployments", [])
    for one in deployments:
        if one.get("name") == name:
            return one
    deployments.append({"name": name})
    return deployments[-1]


def _counts(app: Json) -> tuple[int, int]:
    """Of an application's engines: replicas at first, and at most. Raises UserError."""
    deployment = _deployment(app, "Engine")
    scaling, count = deployment.get("autoscaling_config") or {}, deployment.get("num_replicas") or 1
    if not isinstance(count, int):
        raise UserError(
            f"application {app['name']}: num_replicas: {count!r} is no number; autoscaling_config says from when on"
        )
    first = int(scaling.get("initial_replicas") or scaling.get("min_replicas") or count)
    return first, int(scaling.get("max_replicas") or first)


def _scale(deployment: Json, replicas: str) -> None:
    """Raises UserError."""
    least, _, most = replicas.partition("-")
    try:
        bounds = int(least), int(most or least)
    except ValueError:
        raise UserError(f"replicas: {replicas!r} is neither a number nor two, as in 1-4") from None
    if not 1 <= bounds[0] <= bounds[1]:
        raise UserError(f"replicas: {replicas} is below 1, or falls")
    for name in ("num_replicas", "autoscaling_config"):
        deployment.pop(name, None)
    if bounds[0] == bounds[1]:
        deployment["num_replicas"] = bounds[0]
    else:
        scaling = {**SCALING, "min_replicas": bounds[0], "max_replicas": bounds[1], "initial_replicas": bounds[0]}
        deployment["autoscaling_config"] = scaling


def _router(deployment: Json) -> Json:
    router: Json = deployment.setdefault("request_router_config", {})
    router.setdefault("request_router_kwargs", {})
    return router
