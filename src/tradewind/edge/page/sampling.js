// Choosing a token from logits: the likeliest (the first among equals), or a draw at a temperature. Logits that are no
// numbers, as a runtime's fault makes them, are an error.

export function choose(logits, temperature, random = Math.random) {
  return temperature > 0 ? draw(logits, temperature, random()) : likeliest(logits);
}

function likeliest(logits) {
  let best = 0;
  for (let i = 1; i < logits.length; i++) if (logits[i] > logits[best]) best = i;
  if (!Number.isFinite(logits[best])) throw new Error("The model's result is not a number: this runtime cannot run it.");
  return best;
}

function draw(logits, temperature, share) {
  const highest = logits[likeliest(logits)];
  const weights = Float64Array.from(logits, (logit) => Math.exp((logit - highest) / temperature));
  let left = share * weights.reduce((sum, weight) => sum + weight, 0);
  for (let i = 0; i < weights.length; i++) {
    left -= weights[i];
    if (left < 0) return i;
  }
  return likeliest(logits);
}
