"""Steady load: each user asks again as soon as it has its answer, so that as many requests run as there are users.

    locust -f loadtests/steady.py --host http://127.0.0.1:8000

Prompts have a fixed number of words in an order of their own, answers a fixed number of tokens (`--spread` varies both).
A user that is refused waits as long as the server says.
"""

import gevent
from locust import constant, task

from loadtests.sse import StreamingUser


class SteadyUser(StreamingUser):
    wait_time = constant(0)

    @task
    def one(self) -> None:
        if wait := self.ask(*self.questions.draw()).rejected:
            gevent.sleep(wait)
