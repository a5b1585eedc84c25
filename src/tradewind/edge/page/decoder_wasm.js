// One row of a variant's WASM graph (see edge/graph_wasm.py), over a float32 KV cache that lies in JavaScript.
// It knows no text, sampling or page.
//
// The life of a row: 1. `start()` forgets the last; 2. `feed(tokens)` appends and gives the logits after the last one. ONNX
// Runtime copies inputs into WASM memory and outputs out of it, so the cache has no more places than it needs, and grows.

import * as ort from "./vendor/onnxruntime/ort.wasm.min.mjs";

const PAST = "past_key_values.";
const STEP = 64; // places that the cache grows by: each costs a little at every token, each growth a copy

export class Decoder {
  /** graph: bytes. data: [{path, data: bytes}], the files that the graph points into. */
  static async load(graph, data, threads) {
    ort.env.wasm.numThreads = threads;
    ort.env.wasm.wasmPaths = new URL("vendor/onnxruntime/", import.meta.url).href;
    const session = await ort.InferenceSession.create(graph, {
      executionProviders: ["wasm"],
      externalData: data,
      extra: { session: { disable_quant_qdq: "1" } }, // expands the codes now, once (edge/graph_wasm.py)
    });
    return new Decoder(session);
  }

  constructor(session) {
    this.session = session;
    const past = session.inputMetadata.filter((input) => input.name.startsWith(PAST));
    [, this.heads, , this.width] = past[0].shape;
    this.cache = new Map(past.map((input) => [input.name, null]));
    this.start();
  }

  /** Forget everything. */
  start() {
    this.length = this.places = 0;
    for (const name of this.cache.keys()) this.cache.set(name, this.#tensor(new Float32Array()));
  }

  /** Float32Array of the vocabulary's size: the logits after the last token. */
  async feed(tokens) {
    const count = tokens.length;
    const outputs = await this.session.run({
      input_ids: new ort.Tensor("int64", BigInt64Array.from(tokens, BigInt), [1, count]),
      first_position: new ort.Tensor("int64", [BigInt(this.length)], [1]),
      visible: new ort.Tensor("bool", this.#visible(count), [count, this.places + count]),
      logit_positions: new ort.Tensor("int64", [BigInt(count - 1)], [1]),
      ...Object.fromEntries(this.cache),
    });
    this.#makeRoom(this.length + count);
    for (const [name, tensor] of this.cache) this.#append(tensor.data, outputs[name.replace(PAST, "new.")].data, count);
    this.length += count;
    return outputs.logits.data;
  }

  /** Uint8Array [count, places + count]: each new token sees what is held, those before it and itself. */
  #visible(count) {
    const line = this.places + count;
    const seen = new Uint8Array(count * line);
    for (let i = 0; i < count; i++) {
      seen.fill(1, i * line, i * line + this.length);
      seen.fill(1, i * line + this.places, i * line + this.places + i + 1);
    }
    return seen;
  }

  #makeRoom(length) {
    if (length <= this.places) return;
    const before = this.places * this.width;
    this.places = STEP * Math.ceil(length / STEP);
    const after = this.places * this.width;
    for (const [name, { data }] of this.cache) {
      const larger = new Float32Array(this.heads * after);
      for (let head = 0; head < this.heads; head++) larger.set(data.subarray(head * before, (head + 1) * before), head * after);
      this.cache.set(name, this.#tensor(larger));
    }
  }

  /** whole [heads, places, width], added [count, heads, width]. */
  #append(whole, added, count) {
    const { heads, places, width, length } = this;
    for (let token = 0, start = 0; token < count; token++) {
      for (let head = 0; head < heads; head++, start += width) {
        whole.set(added.subarray(start, start + width), (head * places + length + token) * width);
      }
    }
  }

  #tensor(data) {
    return new ort.Tensor("float32", data, [1, this.heads, this.places, this.width]);
  }
}
