"""Write golden.npz: what an independent implementation (transformers on PyTorch) makes of the base checkpoint.

It reads the GGUF file with its own reader, its own names and its own dequantization, and shares no code with the
project. Neither package is a dependency: run it in an environment of its own.

    python -m venv /tmp/parity
    /tmp/parity/bin/pip install torch==2.13.0 transformers==5.23.0 accelerate gguf safetensors
    /tmp/parity/bin/python tests/parity/make_golden.py data/base/SmolLM2-135M-Instruct.Q4_1.gguf artifacts/base
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers

HERE = Path(__file__).parent
TOP, GREEDY = 32, 64


def main(gguf: Path, tokenizer_folder: Path) -> None:
    torch.set_num_threads(1)  # one order of sums
    torch.set_grad_enabled(False)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tokenizer_folder)
    prompts = [encode(tokenizer, prompt) for prompt in json.loads((HERE / "prompts.json").read_text(encoding="utf-8"))]
    tops = [model(torch.tensor([ids])).logits[0].topk(TOP) for ids in prompts]
    greedy = [continue_greedily(model, ids) for ids in prompts]
    np.savez_compressed(
        HERE / "golden.npz",
        lengths=np.array([len(ids) for ids in prompts], np.int32),
        tokens=np.concatenate(prompts).astype(np.uint16),
        top_ids=np.concatenate([top.indices.numpy() for top in tops]).astype(np.uint16),
        top_logits=np.concatenate([top.values.numpy() for top in tops]),
        greedy=np.array([tokens for tokens, _ in greedy], np.uint16),
        greedy_margin=np.array([margins for _, margins in greedy], np.float32),
        digest=np.array(digest(model)),
        versions=np.array(f"torch {torch.__version__}, transformers {transformers.__version__}"),
    )


def encode(tokenizer: transformers.PreTrainedTokenizerBase, prompt: dict) -> list[int]:
    if "text" in prompt:
        return tokenizer(prompt["text"], add_special_tokens=False).input_ids
    return tokenizer.apply_chat_template(prompt["messages"], add_generation_prompt=True, return_dict=False)


def continue_greedily(model: torch.nn.Module, ids: list[int]) -> tuple[list[int], list[float]]:
    """The best tokens, end of text or not, and by how much each was ahead of the second best."""
    tokens, margins, past, fed = [], [], None, ids
    for _ in range(GREEDY):
        out = model(torch.tensor([fed]), past_key_values=past, use_cache=True)
        best = out.logits[0, -1].topk(2)
        tokens.append(int(best.indices[0]))
        margins.append(float(best.values[0] - best.values[1]))
        past, fed = out.past_key_values, tokens[-1:]
    return tokens, margins


def digest(model: torch.nn.Module) -> str:
    """As `tradewind.model.weights.weights_digest` names weights; the tied head is not counted twice."""
    sha = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name != "lm_head.weight":
            array = np.ascontiguousarray(tensor.numpy())
            sha.update(f"{name} {array.dtype.str} {array.shape}\n".encode() + array.tobytes())
    return sha.hexdigest()[:16]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
