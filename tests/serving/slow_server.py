"""A server as `python -m tradewind.serving` runs it, over a mock engine that takes its time. The first argument is the
settings in JSON, the second the seconds of a step.
"""

import json
import sys

from tradewind.engine.mock import MockEngine
from tradewind.engine.scheduler import Scheduler
from tradewind.engine.text import ByteTokenizer
from tradewind.serving.app import create_app
from tradewind.serving.server import bind, serve
from tradewind.serving.settings import ServeSettings


def main() -> None:
    settings = ServeSettings(**json.loads(sys.argv[1]))
    engine = MockEngine(settings.slots, settings.max_len, step_delay=float(sys.argv[2]))
    tokenizer = ByteTokenizer()
    app = create_app(Scheduler(engine, tokenizer, settings.scheduler), tokenizer, "mock", settings)
    serve(app, bind("127.0.0.1", 0), "mock", settings, app.state.readiness.drain)


if __name__ == "__main__":
    main()
