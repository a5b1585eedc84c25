"""Stage `corpus`: documentation records of the installed packages, and the questions and code tasks made from them."""

from tradewind import data
from tradewind.config import build, run, stage_params
from tradewind.corpus.build import CorpusConfig, build_corpus

CORPUS = "artifacts/corpus"


def main() -> None:
    params = stage_params("corpus")
    params.pop("profile")
    config = build(CorpusConfig, params)
    if config.verify_data:
        data.verify()
    summary = build_corpus(config, CORPUS)
    print(f"corpus: {summary['objects']} objects, samples {summary['samples']}, test set {summary['test_digest']}")


if __name__ == "__main__":
    run(main)
