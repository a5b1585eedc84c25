"""The manifests of conf/kubernetes against schemas, and against what this deployment needs beyond them; no cluster is asked.

Kubernetes' own kinds, and those inside the RayService, are held to Kubernetes' schemas; the RayService itself to
rayservice.schema.json. Unknown fields are errors in both.
"""

import copy
import json
import re
from collections.abc import Callable, Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.support import ROOT
from tradewind.serving.settings import ServeSettings

FOLDER = ROOT / "conf" / "kubernetes"
SCHEMA = json.loads((Path(__file__).parent / "rayservice.schema.json").read_text(encoding="utf-8"))
VERSIONS = ("1.31", "1.37")
"""Of Kubernetes: the oldest whose fields are used here as they are, and the newest that the schemas know."""
KUBERAY_LABELS = {"head": {"ray.io/node-type": "head"}, "worker": {"ray.io/node-type": "worker"}}
"""That the operator adds to a pod."""
START_S = 90
"""That a replica may take to start: its image is there, its weights are read, its engine is warmed up."""
Manifest = dict[str, Any]


@pytest.fixture
def manifests() -> list[Manifest]:
    return [one for file in sorted(FOLDER.glob("*.yaml")) for one in yaml.safe_load_all(file.read_text("utf-8"))]


def of_kind(manifests: list[Manifest], kind: str) -> Manifest:
    (found,) = [one for one in manifests if one["kind"] == kind]
    return found


def templates(service: Manifest) -> dict[str, Manifest]:
    """Of pods, by `head` and by `worker` and the group's name."""
    cluster = service["spec"]["rayClusterConfig"]
    workers = {f"worker {group['groupName']}": group["template"] for group in cluster["workerGroupSpecs"]}
    return {"head": cluster["headGroupSpec"]["template"], **workers}


def inside(service: Manifest) -> Iterator[tuple[str, Manifest]]:
    """The parts of a RayService that have Kubernetes' types, as manifests of their own."""
    for name, template in templates(service).items():
        yield name, {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "it"}, "template": template}
    yield "serveService", {"apiVersion": "v1", "kind": "Service", **service["spec"].get("serveService", {})}
    options = service["spec"]["rayClusterConfig"].get("autoscalerOptions", {})
    own = {"idleTimeoutSeconds", "upscalingMode", "version"}
    container = {"name": "autoscaler"} | {name: value for name, value in options.items() if name not in own}
    template = {"spec": {"containers": [container]}}
    yield "autoscaler", {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "it"}, "template": template}


def misfits(manifests: list[Manifest], version: str) -> Iterator[str]:
    """What no schema takes: where, and why."""
    for manifest in manifests:
        parts = [(manifest["kind"], manifest)]
        if manifest["kind"] == "RayService":
            for error in jsonschema.Draft202012Validator(SCHEMA).iter_errors(manifest):
                yield f"RayService {error.json_path}: {error.message}"
            parts = list(inside(manifest))
        for name, part in parts:
            try:
                kubernetes_validate.validate(part, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                yield f"{name} {error.json_path}: {error.message}"


def lacking(service: Manifest) -> Iterator[str]:
    """What a schema does not ask of a pod, and this deployment does."""
    for name, template in templates(service).items():
        pod = template["spec"]
        for container in pod["containers"]:
            for what in container_lacks(container, pod):
                yield f"{name}: {container['name']} has no {what}"


def container_lacks(container: Manifest, pod: Manifest) -> Iterator[str]:
    for kind in ("requests", "limits"):
        held = container.get("resources", {}).get(kind, {})
        yield from (f"{kind} of {what}" for what in ("cpu", "memory", "ephemeral-storage") if what not in held)
    yield from (probe for probe in ("startupProbe", "livenessProbe", "readinessProbe") if probe not in container)
    if "preStop" not in container.get("lifecycle", {}):
        yield "preStop"
    elif slow_to_end(container) >= pod.get("terminationGracePeriodSeconds", 30):
        yield "time left of its grace after preStop and drain"
    security = {**pod.get("securityContext", {}), **container.get("securityContext", {})}
    wanted = {"runAsNonRoot": True, "readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False}
    yield from (what for what, value in wanted.items() if security.get(what) is not value)
    if security.get("capabilities", {}).get("drop") != ["ALL"]:
        yield "capabilities dropped"
    if not security.get("runAsUser"):
        yield "user"
    volumes = {one["name"]: one for one in pod.get("volumes", [])}
    mounts = {one["mountPath"]: volumes.get(one["name"], {}) for one in container.get("volumeMounts", [])}
    yield from (f"emptyDir at {path}" for path in ("/tmp", "/dev/shm") if "emptyDir" not in mounts.get(path, {}))
    keys = str(Path(variables(container).get("TRADEWIND_KEYS_FILE", "")).parent)
    secret = mounts.get(keys, {}).get("secret")
    if not secret or secret.get("optional"):
        yield "keys that must be there"


def slow_to_end(container: Manifest) -> float:
    """Seconds of its preStop (a sleep) and of Ray's drain."""
    command, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    assert command == "sleep"
    return float(seconds) + float(variables(container)["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])


def variables(container: Manifest) -> dict[str, str]:
    return {one["name"]: one.get("value", "") for one in container.get("env", [])}


def selected(selector: Manifest, service: Manifest) -> set[str]:
    """The pods that a selector of labels takes."""
    wanted = selector["matchLabels"].items()
    held = {
        name: {**template["metadata"]["labels"], **KUBERAY_LABELS[name.split()[0]]}
        for name, template in templates(service).items()
    }
    return {name for name, labels in held.items() if wanted <= labels.items()}


def settings(text: str) -> dict[str, Any]:
    """Every value of the applications in a serve.yaml's text, by where it stands; lists of named things by their names."""
    found = {}

    def walk(value: Any, place: str) -> None:
        if isinstance(value, dict) and value:
            for name, one in value.items():
                walk(one, f"{place}.{name}" if place else name)
        elif isinstance(value, list) and value and all(isinstance(one, dict) and "name" in one for one in value):
            for one in value:
                walk(one, f"{place}.{one['name']}" if place else one["name"])
        else:
            found[place] = value

    walk(yaml.safe_load(text)["applications"], "")
    return found


def unlike(service: Manifest, serve_yaml: str) -> set[str]:
    """The settings of applications that are not alike in `serveConfigV2` and in a serve.yaml's text."""
    here, there = settings(service["spec"]["serveConfigV2"]), settings(serve_yaml)
    missing = object()
    return {name for name in here.keys() | there.keys() if here.get(name, missing) != there.get(name, missing)}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_field_is_one_that_kubernetes_and_kuberay_know(manifests: list[Manifest], version: str) -> None:
    assert {one["kind"] for one in manifests} == {"RayService", "NetworkPolicy", "PodDisruptionBudget"}
    assert list(misfits(manifests, version)) == []


def test_every_container_has_limits_probes_and_a_drain_within_its_grace(manifests: list[Manifest]) -> None:
    assert list(lacking(of_kind(manifests, "RayService"))) == []


WORKER = ("rayClusterConfig", "workerGroupSpecs", 0, "template", "spec")
CONTAINER = (*WORKER, "containers", 0)
HEAD = ("rayClusterConfig", "headGroupSpec", "template", "spec", "containers", 0)


def test_a_field_misspelt_is_found_wherever_it_is(manifests: list[Manifest]) -> None:
    places = [(), ("rayClusterConfig",), ("rayClusterConfig", "autoscalerOptions"), ("serveService", "spec"), WORKER]
    places += [CONTAINER, (*CONTAINER, "livenessProbe", "httpGet"), (*CONTAINER, "lifecycle"), (*HEAD, "resources")]
    for place in places:
        changed = copy.deepcopy(of_kind(manifests, "RayService"))
        reduce(lambda held, key: held[key], place, changed["spec"])["misspelt"] = "x"
        assert any("misspelt" in one for one in misfits([changed], VERSIONS[-1])), place
    for kind in ("NetworkPolicy", "PodDisruptionBudget"):
        changed = copy.deepcopy(of_kind(manifests, kind))
        changed["spec"]["misspelt"] = "x"
        assert any("misspelt" in one for one in misfits([changed], VERSIONS[-1])), kind


def without(*place: Any) -> Callable[[Manifest], Any]:
    *path, last = place
    return lambda spec: reduce(lambda held, key: held[key], path, spec).pop(last)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (without(*CONTAINER, "resources", "limits", "memory"), "ray-worker has no limits of memory"),
        (without(*HEAD, "resources", "requests"), "ray-head has no requests of cpu"),
        (without(*CONTAINER, "readinessProbe"), "ray-worker has no readinessProbe"),
        (without(*HEAD, "livenessProbe"), "ray-head has no livenessProbe"),
        (without(*CONTAINER, "lifecycle", "preStop"), "ray-worker has no preStop"),
        (without(*WORKER, "terminationGracePeriodSeconds"), "ray-worker has no time left of its grace"),
        (without(*CONTAINER, "securityContext"), "ray-worker has no readOnlyRootFilesystem"),
        (without(*WORKER, "securityContext"), "ray-worker has no user"),
        (without(*WORKER, "volumes"), "ray-worker has no emptyDir at /tmp"),
        (
            lambda spec: spec["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["spec"]["volumes"].pop(),
            "keys that",
        ),
    ],
)
def test_what_is_missing_is_found(manifests: list[Manifest], change: Callable[[Manifest], Any], found: str) -> None:
    service = copy.deepcopy(of_kind(manifests, "RayService"))
    change(service["spec"])
    assert any(found in one for one in lacking(service)), list(lacking(service))


def test_the_head_outlives_the_drain_of_the_workers(manifests: list[Manifest]) -> None:
    head, *workers = (one["spec"]["containers"][0] for one in templates(of_kind(manifests, "RayService")).values())
    assert slow_to_end(head) > max(map(slow_to_end, workers))


def test_an_old_cluster_is_kept_for_as_long_as_its_requests_may_take(manifests: list[Manifest]) -> None:
    assert of_kind(manifests, "RayService")["spec"]["rayClusterDeletionDelaySeconds"] > ServeSettings.request_timeout_s


def test_selectors_take_the_pods_that_they_are_meant_for(manifests: list[Manifest]) -> None:
    service = of_kind(manifests, "RayService")
    pods = set(templates(service))
    assert selected(of_kind(manifests, "NetworkPolicy")["spec"]["podSelector"], service) == pods
    workers = pods - {"head"}
    assert selected(of_kind(manifests, "PodDisruptionBudget")["spec"]["selector"], service) == workers
    for name in workers:
        for spread in templates(service)[name]["spec"]["topologySpreadConstraints"]:
            assert selected(spread["labelSelector"], service) == workers


def test_a_budget_leaves_a_worker_to_take(manifests: list[Manifest]) -> None:
    """Its owner has no scale: a percentage, and maxUnavailable, would let no worker go, or any."""
    budget = of_kind(manifests, "PodDisruptionBudget")["spec"]
    fewest = sum(
        group["minReplicas"]
        for group in of_kind(manifests, "RayService")["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    )
    assert type(budget["minAvailable"]) is int and 0 < budget["minAvailable"] < fewest


def test_the_serving_port_is_one_everywhere(manifests: list[Manifest]) -> None:
    service = of_kind(manifests, "RayService")
    port = yaml.safe_load(service["spec"]["serveConfigV2"])["http_options"]["port"]
    assert service["spec"]["serveService"]["spec"]["ports"] == [{"name": "serve", "port": port}]
    for name, template in templates(service).items():
        ports = {one["name"]: one["containerPort"] for one in template["spec"]["containers"][0]["ports"]}
        assert ports["serve"] == port, name


OTHERWISE = {"api.deployments.Api.num_replicas", "api.deployments.Api.ray_actor_options.num_cpus", "engine.args.model"}
"""Not as in serve.yaml, which is for one machine; the manifest says why."""


def test_the_applications_are_those_of_serve_yaml_but_for_what_is_named(manifests: list[Manifest]) -> None:
    service = of_kind(manifests, "RayService")
    own = service["spec"]["serveConfigV2"]
    assert unlike(service, own) == set()
    assert settings(own).keys() >= OTHERWISE
    for name in settings(own).keys() & {"api.import_path", "engine.deployments.Engine.num_replicas"}:
        *path, last = name.replace("deployments.Engine", "deployments.0").split(".")
        changed = yaml.safe_load(own)
        held = next(one for one in changed["applications"] if one["name"] == path[0])
        for key in path[1:]:
            held = held[int(key) if key.isdigit() else key]
        del held[last]
        assert unlike(service, yaml.safe_dump(changed)) == {name}
    assert unlike(service, (ROOT / "serve.yaml").read_text("utf-8")) == OTHERWISE


def test_a_drain_is_long_enough_for_a_start_elsewhere_and_an_end_here(manifests: list[Manifest]) -> None:
    service = of_kind(manifests, "RayService")
    longest = max(
        one for name, one in settings(service["spec"]["serveConfigV2"]).items() if name.endswith("shutdown_timeout_s")
    )
    assert longest >= ServeSettings.request_timeout_s
    for name in set(templates(service)) - {"head"}:
        drain = variables(templates(service)[name]["spec"]["containers"][0])["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"]
        assert float(drain) >= longest + START_S, name


def test_the_applications_fit_on_the_fewest_workers(manifests: list[Manifest]) -> None:
    """In CPUs as Ray counts them: a worker has as many as its limit says."""
    service = of_kind(manifests, "RayService")
    wanted = 0.0
    for app in yaml.safe_load(service["spec"]["serveConfigV2"])["applications"]:
        for one in app["deployments"]:
            wanted += one["num_replicas"] * one["ray_actor_options"]["num_cpus"]
            assert one["ray_actor_options"]["num_cpus"] > 0, "it could be put on the head, which no caller reaches"
    groups = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    held = [group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"] for group in groups]
    assert wanted <= sum(group["minReplicas"] * float(cpu) for group, cpu in zip(groups, held, strict=True))


def test_ray_is_the_version_of_the_lock(manifests: list[Manifest]) -> None:
    version = of_kind(manifests, "RayService")["spec"]["rayClusterConfig"]["rayVersion"]
    assert tuple(map(int, version.split("."))) >= (2, 53)  # the first with /api/healthz, which the probes ask
    lock = (ROOT / "requirements-cluster.lock").read_text("utf-8")
    assert re.findall(r"^ray==(\S+)", lock, re.MULTILINE) == [version]


def test_the_image_runs_as_the_pods_user_and_holds_what_it_copies(manifests: list[Manifest]) -> None:
    service = of_kind(manifests, "RayService")
    lines = (FOLDER / "Dockerfile").read_text("utf-8").splitlines()
    user = [line.split()[1] for line in lines if line.startswith("USER ")][-1]
    images = set()
    for template in templates(service).values():
        security = template["spec"]["securityContext"]
        assert user == f"{security['runAsUser']}:{security['runAsGroup']}"
        images |= {one["image"] for one in template["spec"]["containers"]}
    (image,) = images
    assert f"--tag {image} " in lines[0]
    copied = {name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]}
    let_in = {line[1:] for line in (FOLDER / "Dockerfile.dockerignore").read_text("utf-8").split() if line[0] == "!"}
    assert copied == let_in
    made = {"requirements-cluster.lock", "artifacts/variants"}
    assert [name for name in sorted(copied - made) if not (ROOT / name).exists()] == []
