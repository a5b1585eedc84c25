"""The lines of `status`, from what Serve says."""

from pathlib import Path

from tests.cluster.test_plan import written
from tradewind.cluster.plan import Plan
from tradewind.cluster.status import lines


def test_models_replicas_aliases_and_what_is_wrong_are_named(tmp_path: Path) -> None:
    plan = Plan.read(written(tmp_path, lambda config: None)).changed(slots=4)
    failed = "A replica's health check failed."
    engine = {
        "status": "UNHEALTHY",
        "message": f"first\n{failed}\n",
        "replicas": [
            {"replica_id": "a1", "state": "RUNNING", "pid": 11},
            {"replica_id": "b2", "state": "STARTING", "pid": None},
        ],
    }
    api = {"status": "HEALTHY", "message": "", "replicas": [{"replica_id": "c3", "state": "RUNNING", "pid": 12}]}
    details = {
        "applications": {
            "api": {"status": "RUNNING", "deployments": {"Api": api}},
            "engine": {"status": "UNHEALTHY", "deployments": {"Engine": engine}},
        }
    }
    assert list(lines(plan, "http://127.0.0.1:8000", details)) == [
        "serving mock at http://127.0.0.1:8000/v1",
        "alias assistant: mock",
        "api: RUNNING",
        "  Api: 1 replicas (HEALTHY)",
        "    c3: RUNNING, pid 12",
        "engine: UNHEALTHY, mock by mock, slots of a replica: 4",
        f"  Engine: 2 replicas (UNHEALTHY): {failed}",
        "    a1: RUNNING, pid 11",
        "    b2: STARTING, pid not yet",
    ]
