"""What a cluster runs, in lines: from its plan and from what Serve says of it (`ServeInstanceDetails`, as a mapping)."""

from collections.abc import Iterator, Mapping
from typing import Any

from tradewind.cluster.plan import ENGINE, Plan

Details = Mapping[str, Any]


def lines(plan: Plan, url: str, details: Details) -> Iterator[str]:
    """The main model and where it is served, aliases, then each application with its replicas, and why one is not well."""
    models = {app["name"]: app["args"]["model"] for app in plan.engines}
    yield f"serving {plan.model} at {url}/v1"
    for name, alias in (plan.api["args"].get("aliases") or {}).items():
        yield f"alias {name}: {', '.join(models.get(one, one) for one in alias['engines'])}"
    known = {app["name"]: app for app in plan.config["applications"]}
    for name, app in details["applications"].items():
        yield f"{name}: {text(app['status'])}{runs(known.get(name))}"
        for deployment, one in app["deployments"].items():
            yield f"  {deployment}: {len(one['replicas'])} replicas ({text(one['status'])}){why(one)}"
            for replica in one["replicas"]:
                yield f"    {replica['replica_id']}: {text(replica['state'])}, pid {replica.get('pid') or 'not yet'}"


def runs(app: Details | None) -> str:
    """Of an application of engines: model, engine, slots."""
    if app is None or app["import_path"] != ENGINE:
        return ""
    args = app["args"]
    slots = args.get("slots", "")
    shown = " and ".join(map(str, slots)) + " in turn" if isinstance(slots, list) else slots
    return f", {args['model']} by {args['engine']}, slots of a replica: {shown}"


def why(deployment: Details) -> str:
    """Serve's last line on a deployment that is not well."""
    said = str(deployment.get("message") or "").strip().splitlines()
    return f": {said[-1]}" if said and text(deployment["status"]) != "HEALTHY" else ""


def text(state: Any) -> str:
    """Of an enumeration's member, or as it is."""
    return str(getattr(state, "value", state))
