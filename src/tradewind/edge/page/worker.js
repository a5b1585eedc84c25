// The model, off the page's thread. Messages in: {load: {runtime, threads}}, {ask: {...}}, {stop: true}. Messages out: {progress},
// {ready}, {token}, {done}, {problem}.
//
// The life of an answer: 1. the prompt is rendered and encoded; 2. it is fed in chunks; 3. tokens are chosen and fed, one
// at a time, until one ends the answer (unless ignoreEnd, for measuring), there are enough, or the page says stop. Between
// two calls of the model the worker looks at its messages. A rate is told of facts.leastTimed tokens or more.

import { choose } from "./sampling.js";
import { Text } from "./text.js";

const here = (name) => new URL(name, import.meta.url).href;
let facts, chunk, text, decoder, stopped;

self.onmessage = async ({ data }) => {
  try {
    if (data.load) postMessage({ ready: await load(data.load) });
    if (data.ask) await answer(data.ask);
    if (data.stop) stopped = true;
  } catch (error) {
    postMessage({ problem: error.message ?? String(error) });
  }
};

async function load({ runtime, threads }) {
  const started = performance.now();
  facts = await (await get("model.json")).json();
  const own = facts.runtimes[runtime];
  chunk = own.chunk;
  const report = counter(own.bytes);
  const [graph, tokenizer, config, template, ...data] = await Promise.all(
    [own.graph, "model/tokenizer.json", "model/tokenizer_config.json", "model/chat_template.jinja",
      ...facts.data.map((file) => `model/${file.path}`)].map((name) => download(name, report)),
  );
  const fetched = performance.now();
  const [vocabulary, settings, source] = [tokenizer, config, template].map((bytes) => new TextDecoder().decode(bytes));
  text = new Text(JSON.parse(vocabulary), JSON.parse(settings), source);
  const { Decoder } = await import(`./decoder_${runtime}.js`);
  decoder = await Decoder.load(graph, facts.data.map((file, i) => ({ path: file.path, data: data[i] })), threads);
  const ready = performance.now();
  return { facts, fetchMs: fetched - started, sessionMs: ready - fetched, loadMs: ready - started };
}

async function answer({ passage, question, temperature, maxTokens, ignoreEnd }) {
  const started = performance.now();
  stopped = false;
  const user = passage ? passage + facts.between + question : question;
  const prompt = text.chat([{ role: "system", content: facts.system }, { role: "user", content: user }]);
  const room = facts.maxLen - prompt.length;
  if (room < 1) throw new Error(`The prompt has ${prompt.length} tokens; there is room for ${facts.maxLen - 1}. Shorten the documentation.`);
  const most = Math.min(maxTokens, room);
  decoder.start();
  const logits = await prefill(prompt);
  const first = { promptTokens: prompt.length, started, first: performance.now() };
  const made = logits ? await generate(logits, most, temperature, ignoreEnd) : { tokens: [], reason: "stopped" };
  postMessage({ done: figures(first, made) });
}

/** Logits after the prompt; null where the page says stop. */
async function prefill(prompt) {
  let logits = null;
  for (let start = 0; start < prompt.length; start += chunk) {
    await messages();
    if (stopped) return null;
    logits = await decoder.feed(prompt.slice(start, start + chunk));
  }
  return logits;
}

async function generate(logits, most, temperature, ignoreEnd) {
  const [tokens, show] = [[], text.stream()];
  for (;;) {
    const token = choose(logits, temperature);
    tokens.push(token);
    postMessage({ token: { id: token, text: show(token) } });
    if (!ignoreEnd && facts.eos.includes(token)) return { tokens, reason: "stop" };
    if (tokens.length === most) return { tokens, reason: "length" };
    await messages();
    if (stopped) return { tokens, reason: "stopped" };
    logits = await decoder.feed([token]);
  }
}

function figures({ promptTokens, started, first }, { tokens, reason }) {
  const seconds = (performance.now() - first) / 1000;
  const tokensPerS = tokens.length >= facts.leastTimed ? (tokens.length - 1) / seconds : null;
  return { promptTokens, tokens: tokens.length, reason, ttftMs: first - started, tokensPerS };
}

/** Let the messages that wait be handled. */
function messages() {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => resolve(port1.close());
    port2.postMessage(null);
  });
}

async function get(name) {
  const response = await fetch(here(name));
  if (!response.ok) throw new Error(`${name}: the server answered ${response.status}`);
  return response;
}

async function download(name, report) {
  const response = await get(name);
  const pieces = [];
  for (const reader = response.body.getReader(); ;) {
    const { done, value } = await reader.read();
    if (done) break;
    pieces.push(value);
    report(value.length);
  }
  return joined(pieces);
}

function joined(pieces) {
  const whole = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let place = 0;
  for (const piece of pieces) {
    whole.set(piece, place);
    place += piece.length;
  }
  return whole;
}

/** Adds up what has come and tells the page, at most a hundred times. */
function counter(total) {
  let [done, told] = [0, 0];
  return (bytes) => {
    done += bytes;
    if (done - told < total / 100 && done < total) return;
    told = done;
    postMessage({ progress: { done, total } });
  };
}
