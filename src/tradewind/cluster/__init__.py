"""Several engines behind one API: requests that outlive the replica that runs them, routing, deployment on Ray Serve."""

import os

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "2",  # the third that fails has it replaced
    "RAY_worker_niceness": "0",  # 15 otherwise, and every other program of the machine would go first
    # One event loop a process: each hop to another thread waits for the interpreter lock of a busy one.
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
}
"""Of Ray, where the environment does not say otherwise; read when it is imported."""

for _name, _value in SETTINGS.items():
    os.environ.setdefault(_name, _value)
