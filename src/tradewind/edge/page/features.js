// What this browser can do: whether the model can run in it at all, on how many threads, and whether on a GPU.

const SIMD = new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11,
]); // a module with one vector instruction (webassembly.github.io/simd)
const MOST_THREADS = 4;

/** One line that says what is missing, or null. */
export function missing() {
  if (typeof WebAssembly !== "object") return "This browser has no WebAssembly, which the model runs in.";
  if (!WebAssembly.validate(SIMD)) return "This browser's WebAssembly has no SIMD (vector) instructions, which the model needs.";
  if (typeof Worker !== "function" || typeof BigInt64Array !== "function") return "This browser is too old: it lacks workers or 64-bit integers.";
  return null;
}

/** Threads to run on: as asked, at most the cores; else all cores but one, as threads wait by spinning and a busy core then
    costs more than it brings. 1 where the page may not share memory between threads. */
export function threads(asked) {
  if (!globalThis.crossOriginIsolated || typeof SharedArrayBuffer !== "function") return 1;
  const cores = navigator.hardwareConcurrency || 1;
  return Math.max(1, asked ? Math.min(asked, cores) : Math.min(cores - 1, MOST_THREADS));
}

/** Whether there is a GPU that pages may use. */
export async function hasWebgpu() {
  return Boolean(await navigator.gpu?.requestAdapter().catch(() => null));
}

/** The runtime in words. */
export function backend(runtime, count) {
  if (runtime === "webgpu") return "WebGPU";
  if (count > 1) return `WASM SIMD, ${count} threads`;
  return globalThis.crossOriginIsolated ? "WASM SIMD, 1 thread" : "WASM SIMD, 1 thread (page not isolated)";
}
