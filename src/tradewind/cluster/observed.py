"""What replicas of engines do, as seen by a process that is attached to their cluster (`deploy.attached`)."""

import os

import ray
from ray import serve

REPLY_S = 30.0


def running() -> int:
    """Replicas of engines that Serve counts as running; one that died a moment ago may be among them."""
    return sum(
        one.replica_states.get("RUNNING", 0)
        for app in serve.status().applications.values()
        for name, one in app.deployments.items()
        if name == "Engine"
    )


def tokens_by_replica() -> dict[int, int]:
    """Process id -> tokens that it has made."""
    made = {}
    for one in ray.util.list_named_actors(all_namespaces=True):
        if one["name"].startswith("SERVE_REPLICA::") and "#Engine#" in one["name"]:
            actor = ray.get_actor(one["name"], one["namespace"])
            pid, stats = ray.get(
                [actor.__ray_call__.remote(_pid), actor.record_routing_stats.remote()], timeout=REPLY_S
            )
            made[int(pid)] = int(stats["state"]["completion_tokens"]) if stats else 0
    return made


def _pid(_: object) -> int:
    """Runs in an actor."""
    return os.getpid()
