"""Several engines behind one API: requests that outlive the replica that runs them, routing, deployment on Ray Serve."""

import os

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "2",  # the third that fails has it replaced
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "tradewind.cluster.proxy.middlewares",
    "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",  # one that hangs ends nothing: others have its requests by then
    "RAY_worker_niceness": "0",  # 15 otherwise, and every other program of the machine would go first
    # Tokens go from replicas over gRPC, in one event loop a process. Handle and router, added to a first token of 0.5 ms
    # by the mock engine (p50 of 150, AMD EPYC, 2 cores): 5.8 ms by Ray's defaults, 3.7 in one loop, 1.6 over gRPC too.
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
}
"""Of Ray, where the environment does not say otherwise; read when it is imported."""

for _name, _value in SETTINGS.items():
    os.environ.setdefault(_name, _value)
