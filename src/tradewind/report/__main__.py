"""`python -m tradewind.report readme --check|--write`: figures in README.md against, or from, reports/."""

import argparse
import sys

from tradewind.config import run
from tradewind.report.readme import check, write


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tradewind.report", description="Figures in README.md.")
    parser.add_argument("what", choices=["readme"])
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--check", action="store_true", help="exit 1 where README.md differs from reports/")
    mode.add_argument("--write", action="store_true", help="write the figures into README.md")
    parser.add_argument("--reports", default="reports")
    parser.add_argument("--readme", default="README.md")
    options = parser.parse_args()
    if options.write:
        print(f"{options.readme} {'rewritten' if write(options.readme, options.reports) else 'is right already'}")
    elif difference := check(options.readme, options.reports):
        print("\n".join(difference))
        sys.exit(1)


if __name__ == "__main__":
    run(main)
