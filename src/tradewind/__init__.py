"""Tradewind: eleven LLM system-design questions answered with running systems and measured evidence.

Importing the package turns the telemetry and the hub look-ups of every tool beneath it off, here and nowhere else
(DVC's own switch is in .dvc/config).
"""

import os

_QUIET = {
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Naming an endpoint is asking for it.
    "OTEL_SDK_DISABLED": "false" if "OTEL_EXPORTER_OTLP_ENDPOINT" in os.environ else "true",
}
for _name, _value in _QUIET.items():
    os.environ.setdefault(_name, _value)
