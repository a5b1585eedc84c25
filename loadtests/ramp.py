"""From one user to 32, doubling: until more users bring no more answers, only longer waits.

locust -f loadtests/ramp.py --host http://127.0.0.1:8000 --run-time 120s
"""

from locust import LoadTestShape

from loadtests.arrivals import RUN_S
from loadtests.sse import Recording
from loadtests.steady import SteadyUser

__all__ = ["Doubling", "SteadyUser"]

USERS = (1, 2, 4, 8, 16, 32)


class Doubling(LoadTestShape):
    """Each number of users for an equal part of the run."""

    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        assert self.runner is not None
        environment = self.runner.environment
        assert environment.parsed_options is not None
        recording: Recording | None = getattr(environment, "recording", None)  # not before the test has started
        seconds = float(environment.parsed_options.run_time or RUN_S) / len(USERS)
        step = int(self.get_run_time() / seconds)
        if step >= len(USERS):
            return None
        if recording is not None and len(recording.phases) <= step:
            recording.phase(f"{USERS[step]} users", USERS[step], seconds)
        return USERS[step], float(USERS[step])
