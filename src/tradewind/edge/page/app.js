// The page: what is shown and asked. The model runs in worker.js.
//
// The life of the page: 1. a service worker takes over, so that what is loaded is kept for the next time; 2. the worker
// loads the model; 3. each question goes to it and its tokens come back one by one. The state is told to the document
// (`data-state`: loading, ready, answering, failed), for styles and tests. The address may say `?runtime=webgpu`,
// `?threads=N`, and for measuring `ignore_end`: an answer then goes on past its end, to the most tokens. What else it says
// is told to be wrong, and left aside.

import { backend, hasWebgpu, missing, threads } from "./features.js";

const $ = (id) => document.getElementById(id);
const ROOT = new URL(".", import.meta.url);
const query = new URLSearchParams(location.search);
const OTHER = "WebAssembly may run: choose it as the runtime in the options.";
const OPTIONS = { runtime: /^(wasm|webgpu)$/, threads: /^[1-9]\d*$/, ignore_end: /^/ };
const wrong = [...query].filter(([name, value]) => !OPTIONS[name]?.test(value)).map((pair) => pair.join("="));
const count = threads(OPTIONS.threads.test(query.get("threads")) ? Number(query.get("threads")) : 0);
let runtime = "wasm", worker, examples = [];

start();

async function start() {
  state("loading");
  listen();
  if (wrong.length) notice(`Not understood in the address: ${wrong.join(", ")} (it takes runtime=wasm or webgpu, threads=1 or more).`);
  const lack = missing();
  if (lack) return fail(lack);
  await keep();
  runtime = await chooseRuntime();
  worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  worker.onmessage = ({ data }) => Object.entries(data).forEach(([kind, value]) => handlers[kind](value));
  worker.onerror = (event) => fail(`The model's worker ended: ${event.message ?? "it could not be loaded"}`);
  worker.postMessage({ load: { runtime, threads: count } });
}

const handlers = {
  progress({ done, total }) {
    if (document.documentElement.dataset.state !== "loading") return; // another file's failure came first
    $("progress").value = done / total;
    $("status").textContent = done < total ? `Loading ${mb(done)} of ${mb(total)} MB …` : "Preparing the model …";
  },
  ready({ facts, loadMs, fetchMs, sessionMs }) {
    $("progress").hidden = true;
    $("status").textContent = `${facts.name}: ${(facts.parameters / 1e6).toFixed(1)} million weights, ` +
      `${mb(facts.runtimes[runtime].bytes)} MB with its tokenizer, ${backend(runtime, count)}, loaded in ${(loadMs / 1000).toFixed(1)} s.`;
    Object.assign(document.documentElement.dataset, { loadMs, fetchMs, sessionMs, pageMs: performance.now() });
    $("context").textContent = ` Passage, question and answer: at most ${facts.maxLen} tokens.`;
    offer(facts.examples);
    $("ask").disabled = false;
    state("ready");
    tellSaved(facts);
  },
  token({ id, text }) {
    $("answer").append(text);
    $("answer").dataset.tokens = [$("answer").dataset.tokens, id].filter((part) => part !== "").join(",");
  },
  done(figures) {
    const rows = {
      "First token after": figures.tokens ? `${(figures.ttftMs / 1000).toFixed(2)} s` : null,
      "Then": figures.tokensPerS === null ? null : `${figures.tokensPerS.toFixed(1)} tokens/s`, // too short to time
      "Tokens": `${figures.promptTokens} in, ${figures.tokens} out`,
      "Ended": { stop: "by itself", length: "at the limit", stopped: "by you" }[figures.reason],
    };
    $("figures").replaceChildren(...Object.entries(rows).filter(([, value]) => value).map(([term, value]) => pair(term, value)));
    $("figures").hidden = false;
    Object.assign(document.documentElement.dataset, figures);
    finish();
  },
  problem(line) {
    if (document.documentElement.dataset.state === "loading") fail(runtime === "webgpu" ? `${line} ${OTHER}` : line);
    else finish(line);
  },
};

function listen() {
  $("form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (document.documentElement.dataset.state === "ready") ask();
  });
  $("tokens").addEventListener("invalid", () => {
    $("tokens").closest("details").open = true; // the browser says what is wrong, but not of what is folded away
  });
  $("stop").addEventListener("click", () => worker.postMessage({ stop: true }));
  $("runtime").addEventListener("change", ({ target }) => {
    query.set("runtime", target.value);
    location.search = query;
  });
  $("temperature").addEventListener("input", ({ target }) => {
    $("temperature-shown").textContent = target.value === "0" ? "0 (the likeliest)" : target.value;
  });
  $("example").addEventListener("change", ({ target }) => show(examples[target.value] ?? { passage: "", question: "" }));
  for (const name of ["passage", "question"]) $(name).addEventListener("input", mark);
}

function ask() {
  state("answering");
  $("answer").textContent = $("answer").dataset.tokens = "";
  $("figures").hidden = $("problem").hidden = $("expected").hidden = true;
  $("stop").hidden = false;
  $("ask").disabled = true;
  $("answer-title").scrollIntoView({ block: "nearest" }); // on a phone it is below the fold
  worker.postMessage({
    ask: {
      passage: $("passage").value.trim(),
      question: $("question").value.trim(),
      temperature: Number($("temperature").value),
      maxTokens: Number($("tokens").value),
      ignoreEnd: query.has("ignore_end"),
    },
  });
}

function finish(problem = "") {
  $("stop").hidden = true;
  $("ask").disabled = false;
  $("problem").textContent = problem;
  $("problem").hidden = !problem;
  const example = examples[shown()];
  $("expected").textContent = example ? `The documentation's own answer: ${example.answer}` : "";
  $("expected").hidden = !example || Boolean(problem);
  state("ready");
}

function fail(line) {
  $("progress").hidden = true;
  $("status").textContent = "The model cannot run here.";
  notice(line);
  state("failed");
}

function notice(line) {
  $("problem").textContent = line;
  $("problem").hidden = false;
}

/** "webgpu" where the address asks for it and the browser has it, else "wasm". */
async function chooseRuntime() {
  const [asked, present] = [query.get("runtime") === "webgpu", await hasWebgpu()];
  $("webgpu").disabled = !present;
  if (!asked || present) return ($("runtime").value = asked ? "webgpu" : "wasm");
  notice("This browser has no WebGPU: the model runs in WebAssembly.");
  return "wasm";
}

/** Let this page's service worker take over, also from one of an earlier page or model; it keeps what comes next. The page
    works without one. */
async function keep() {
  const workers = navigator.serviceWorker;
  if (!workers) return;
  const script = `/sw.js?${ROOT.pathname}`; // a new page or model has a new address, so its worker is another
  try {
    await workers.register(script);
    await workers.ready;
  } catch {
    return; // private windows of some browsers refuse: nothing is kept then, and nothing said
  }
  const deadline = performance.now() + 2000; // a forced reload is never taken over
  while (!workers.controller?.scriptURL.endsWith(script) && performance.now() < deadline) await pause(20);
}

/** Say so once all that the model needs is in the service worker's cache. */
async function tellSaved(facts) {
  if (!navigator.serviceWorker?.controller) return;
  const cache = await caches.open(`tradewind${ROOT.pathname}`);
  const wasm = `vendor/onnxruntime/ort-wasm-simd-threaded${runtime === "webgpu" ? ".asyncify" : ""}.wasm`;
  const names = ["worker.js", `decoder_${runtime}.js`, "model.json", facts.runtimes[runtime].graph, wasm,
    ...facts.data.map((file) => `model/${file.path}`)];
  const deadline = performance.now() + 60_000; // it is still being written; a full disk never ends it
  while (performance.now() < deadline) {
    const found = await Promise.all(names.map((name) => cache.match(new URL(name, ROOT))));
    if (found.every(Boolean)) {
      $("saved").title = `With this runtime, ${backend(runtime, count)}`;
      return ($("saved").hidden = false);
    }
    await pause(200);
  }
}

function pause(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

function offer(all) {
  examples = all;
  if (!all.length) return;
  $("example").replaceChildren(new Option("(your own)", -1), ...all.map((example, i) => new Option(example.question, i)));
  $("example").hidden = $("example-label").hidden = false;
  if (!$("question").value && !$("passage").value) show(all[0]);
  mark();
}

/** Which example stands in the fields; -1: none. */
function shown() {
  return examples.findIndex((one) => one.question === $("question").value && one.passage === $("passage").value);
}

/** Let the list say which. */
function mark() {
  $("example").value = shown();
}

function show({ passage, question }) {
  $("passage").value = passage;
  $("question").value = question;
}

function pair(term, value) {
  const [both, dt, dd] = ["div", "dt", "dd"].map((name) => document.createElement(name));
  dt.textContent = term;
  dd.textContent = value;
  both.append(dt, dd);
  return both;
}

function state(name) {
  document.documentElement.dataset.state = name;
}

function mb(bytes) {
  return (bytes / 1e6).toFixed(1);
}
