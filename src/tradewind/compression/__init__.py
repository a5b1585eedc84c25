"""A model made small: what is cut away, what is taught again, how numbers are rounded, and which files hold them.

- cut: `prune`, a schedule of `prune_depth`, `_heads`, `_hidden`, `_mlp` and `_magnitude`, refitted; `prune_vocabulary`.
- taught: `distill` and `on_policy`, from what the teacher said once (`teacher_cache`).
- rounded: `rules` of a `recipe` decide; `quantize` rounds, `gptq`, `awq` and `qat` lose less by it; `kv_cache` likewise.
- written: `export*`, all from one `variant`, whose manifest names the files; read back and compared by `compare*`.
"""
