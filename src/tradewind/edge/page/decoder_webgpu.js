// One row of a variant's WebGPU graph (see edge/graph_webgpu.py). The KV cache stays on the GPU: what a call gives out is
// the next call's input. It knows no text, sampling or page.
//
// The life of a row: 1. `start()` forgets the last; 2. `feed(tokens)` appends and gives the logits after the last one.

import * as ort from "./vendor/onnxruntime/ort.webgpu.min.mjs";

const [PAST, PRESENT] = ["past_key_values.", "present."];

export class Decoder {
  /** graph: bytes. data: [{path, data: bytes}], the files that the graph points into. */
  static async load(graph, data) {
    ort.env.wasm.numThreads = 1; // the work is not there
    ort.env.wasm.wasmPaths = new URL("vendor/onnxruntime/", import.meta.url).href;
    const session = await ort.InferenceSession.create(graph, {
      executionProviders: ["webgpu"],
      externalData: data,
      preferredOutputLocation: "gpu-buffer",
    });
    return new Decoder(session);
  }

  constructor(session) {
    this.session = session;
    this.past = session.inputMetadata.filter((input) => input.name.startsWith(PAST));
    this.cache = {};
    this.start();
  }

  /** Forget everything. */
  start() {
    const [, heads, , width] = this.past[0].shape;
    this.#keep(Object.fromEntries(
      this.past.map(({ name }) => [name, new ort.Tensor("float32", new Float32Array(), [1, heads, 0, width])]),
    ));
    this.length = 0;
  }

  /** Float32Array of the vocabulary's size: the logits after the last token. */
  async feed(tokens) {
    const count = tokens.length;
    const length = this.length + count;
    const outputs = await this.session.run({
      input_ids: new ort.Tensor("int64", BigInt64Array.from(tokens, BigInt), [1, count]),
      last_positions: new ort.Tensor("int32", [length - 1], [1]),
      longest: new ort.Tensor("int32", [length], []),
      logit_positions: new ort.Tensor("int64", [BigInt(count - 1)], [1]),
      ...this.cache,
    });
    this.#keep(Object.fromEntries(this.past.map(({ name }) => [name, outputs[name.replace(PAST, PRESENT)]])));
    this.length = length;
    return outputs.logits.getData(true); // true: and free the GPU's copy
  }

  #keep(cache) {
    for (const tensor of Object.values(this.cache)) tensor.dispose();
    this.cache = cache;
  }
}
