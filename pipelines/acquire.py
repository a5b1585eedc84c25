"""acquire: fill data/ from the pinned wheels of conf/data/manifest.json (`make data`); `--accept` moves the lock."""

import argparse

from tradewind import data
from tradewind.config import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--accept", action="store_true", help="lock the files that are in data/ now")
    if parser.parse_args().accept:
        print("locked:", ", ".join(data.accept()) or "no change")
    else:
        fetched = data.fetch()
        print("data/ is as locked", f"(fetched {', '.join(fetched)})" if fetched else "")


if __name__ == "__main__":
    run(main)
