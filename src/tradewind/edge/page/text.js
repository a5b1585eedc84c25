// Text to ids and back, as tradewind.model.tokenizer and tradewind.engine.detokenize do it: chat template, byte-level BPE,
// and whole characters only. It knows no model.

import { Template } from "./vendor/jinja.mjs";
import { Tokenizer } from "./vendor/tokenizers.mjs";

const MARK = "\uf8ff";
const ROLES = { bos_token: "<|im_start|>", eos_token: "<|im_end|>", unk_token: "<|endoftext|>", pad_token: "<|im_end|>" };

export class Text {
  /** The parsed tokenizer.json and tokenizer_config.json, and the template's source. */
  constructor(tokenizer, config, template) {
    this.whole = new Tokenizer(tokenizer, config);
    this.plain = new Tokenizer({ ...tokenizer, added_tokens: [] }, config); // special tokens are plain text to it
    this.template = new Template(template);
    this.roles = Object.fromEntries(Object.entries(ROLES).map(([role, usual]) => [role, content(config[role]) ?? usual]));
    this.specials = tokenizer.added_tokens.filter((token) => token.special).map((token) => token.content);
    this.pieces = tokenBytes(tokenizer);
  }

  /** Ids of a conversation that waits for the assistant. A special token's text inside a message stays text. */
  chat(messages) {
    const frame = this.#render(messages.map((message, i) => ({ ...message, content: `${MARK}${i}${MARK}` })));
    const around = frame.split(/\uf8ff\d+\uf8ff/);
    let ids = [];
    let open = around[0];
    messages.forEach(({ content }, i) => {
      if (this.specials.some((special) => content.includes(special))) {
        ids = ids.concat(encode(this.whole, open), encode(this.plain, content));
        open = around[i + 1];
      } else {
        open += content + around[i + 1];
      }
    });
    return ids.concat(encode(this.whole, open));
  }

  /** A function from a token to the text that it makes certain; a character that is still incomplete waits. */
  stream() {
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    return (token) => decoder.decode(this.pieces[token] ?? new Uint8Array(), { stream: true });
  }

  #render(messages) {
    return this.template.render({ messages, add_generation_prompt: true, ...this.roles });
  }
}

function encode(tokenizer, text) {
  return text ? tokenizer.encode(text, { add_special_tokens: false }).ids : [];
}

function content(token) {
  return typeof token === "object" && token ? token.content : token;
}

/** The bytes of each token by id; none for special ones. */
function tokenBytes({ model, added_tokens }) {
  const values = new Map(byteCharacters().map((character, value) => [character, value]));
  const special = new Set(added_tokens.map((token) => token.id));
  const pieces = [];
  for (const [token, id] of Object.entries(model.vocab)) {
    pieces[id] = special.has(id) ? new Uint8Array() : Uint8Array.from([...token], (character) => values.get(character));
  }
  return pieces;
}

/** GPT-2's printable character for each of the 256 bytes. */
function byteCharacters() {
  const printable = (value) => (value >= 33 && value <= 126) || (value >= 161 && value <= 172) || (value >= 174 && value <= 255);
  let others = 0;
  return Array.from({ length: 256 }, (_, value) => String.fromCharCode(printable(value) ? value : 256 + others++));
}
