"""Write embeddings.npz: what an independent implementation (transformers on PyTorch) makes of the sentence encoder.

The encoder's own card says how: `BertModel`, the mean of its last hidden states over the tokens of the text, divided by
its length. It shares no code with the project. Neither package is a dependency: run it in an environment of its own.

    python -m venv /tmp/parity
    /tmp/parity/bin/pip install torch==2.13.0 transformers==5.23.0 safetensors
    /tmp/parity/bin/python tests/parity/make_embeddings.py data/encoder
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers

HERE = Path(__file__).parent
MAX_TOKENS = 256


def main(folder: Path) -> None:
    torch.set_num_threads(1)  # one order of sums
    torch.set_grad_enabled(False)
    model = transformers.BertModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    texts = json.loads((HERE / "texts.json").read_text(encoding="utf-8"))
    ids = [tokenizer(text, truncation=True, max_length=MAX_TOKENS).input_ids for text in texts]
    vectors = [embed(model, one) for one in ids]
    np.savez_compressed(
        HERE / "embeddings.npz",
        lengths=np.array([len(one) for one in ids], np.int32),
        tokens=np.concatenate(ids).astype(np.uint16),
        vectors=np.stack(vectors).astype(np.float32),
        digest=np.array(digest(model)),
        versions=np.array(f"torch {torch.__version__}, transformers {transformers.__version__}"),
    )


def embed(model: torch.nn.Module, ids: list[int]) -> np.ndarray:
    states = model(torch.tensor([ids])).last_hidden_state[0]
    return torch.nn.functional.normalize(states.mean(0), dim=0).numpy()


def digest(model: torch.nn.Module) -> str:
    """As `tradewind.model.weights.weights_digest` names weights; the pooler, which vectors do not pass, is not counted."""
    sha = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if not name.startswith("pooler.") and name != "embeddings.position_ids":
            array = np.ascontiguousarray(tensor.numpy())
            sha.update(f"{name} {array.dtype.str} {array.shape}\n".encode() + array.tobytes())
    return sha.hexdigest()[:16]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
