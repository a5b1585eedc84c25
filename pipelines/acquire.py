"""acquire: fill data/ from the wheels that conf/data/ pins (`make data`); `--accept` moves the lock."""

import argparse
from pathlib import Path

from tradewind import data
from tradewind.config import run
from tradewind.repro import dvc


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--accept", action="store_true", help="lock the files that are in data/ now")
    if parser.parse_args().accept:
        locked = data.accept()
        if locked:
            dvc(Path(), "commit", "--quiet", "--force", "data.dvc")
        print("locked:", ", ".join(locked) or "no change")
    else:
        fetched = data.fetch()
        print("data/ is as locked", f"(fetched {', '.join(fetched)})" if fetched else "")


if __name__ == "__main__":
    run(main)
