// Converts the price data of the npm package @pydantic/genai-prices (MIT, see
// PRICES-NOTICE) into prices.json. Run it with `make prices`, or by hand in an
// empty folder:
//
//   npm install @pydantic/genai-prices@0.1.8
//   node <repository>/worker/llm/prices.cjs > <repository>/worker/llm/prices.json
//
// Kept: providers, their match rules, models, and the token prices with their
// dates. One unit of a price is one pico-USD (1e-12 USD) per token, so
// "2.5 USD per million tokens" is 2500000. Audio, image, search and per-request
// prices are left out: no call of ours uses them.
"use strict";
const fs = require("fs");
const path = require("path");
const { createRequire } = require("module");
const here = createRequire(path.join(process.cwd(), "index.js"));
const main = here.resolve("@pydantic/genai-prices");
const { version } = JSON.parse(fs.readFileSync(path.join(path.dirname(main), "..", "package.json"), "utf8"));
const loaded = { exports: {} };
new Function("module", "exports", "require", fs.readFileSync(main, "utf8") + ";exports.providers=E;")(loaded, loaded.exports, here);

const buckets = { input: "input_mtok", cacheRead: "cache_read_mtok", cacheWrite: "cache_write_mtok", output: "output_mtok", reasoning: "output_reasoning_mtok" };
const pico = (usdPerMillion) => Math.round(usdPerMillion * 1e6);

function rate(price) {
  if (typeof price === "number") return { base: pico(price) };
  const tiers = price.tiers.map((t) => ({ above: t.start, price: pico(t.price) })).sort((a, b) => a.above - b.above);
  return tiers.length ? { base: pico(price.base), tiers } : { base: pico(price.base) };
}

function rates(prices) {
  const out = {};
  for (const [bucket, key] of Object.entries(buckets)) if (prices[key] !== undefined) out[bucket] = rate(prices[key]);
  return out;
}

function seconds(time) {
  const m = /^(\d{2}):(\d{2}):(\d{2})(?:Z|\+00:00)$/.exec(time);
  if (!m) throw new Error(`time of day outside UTC: ${time}`);
  return +m[1] * 3600 + +m[2] * 60 + +m[3];
}

function periods(prices) {
  if (!Array.isArray(prices)) return [{ rates: rates(prices) }];
  return prices.map(({ constraint, prices }) => {
    if (!constraint) return { rates: rates(prices) };
    if (constraint.type === "start_date") return { from: constraint.start_date, rates: rates(prices) };
    if (constraint.type === "time_of_date") return { daily: [seconds(constraint.start_time), seconds(constraint.end_time)], rates: rates(prices) };
    throw new Error(`unknown constraint ${JSON.stringify(constraint)}`);
  });
}

// Go's regular expressions have no lookahead: "^(?!A)B" becomes "not ^A, and ^B".
function match(rule) {
  if (rule === undefined) return undefined;
  for (const list of ["or", "and"]) if (rule[list]) return { [list]: rule[list].map(match) };
  if (!rule.regex || !rule.regex.startsWith("^(?!")) return rule;
  let depth = 1;
  let end = 4;
  for (; depth > 0; end++) depth += { "(": 1, ")": -1 }[rule.regex[end]] || 0;
  const no = { not: { regex: "^" + rule.regex.slice(4, end - 1) } };
  const rest = rule.regex.slice(end);
  return rest ? { and: [no, { regex: "^" + rest }] } : no;
}

const providers = loaded.exports.providers.map((p) => ({
  id: p.id,
  match: match(p.provider_match),
  modelMatch: match(p.model_match),
  fallback: p.fallback_model_providers,
  models: p.models
    .map((m) => ({ id: m.id, match: match(m.match), prices: periods(m.prices) }))
    .filter((m) => m.prices.some((period) => period.rates.input || period.rates.output)),
}));
const lines = providers.map((p) => {
  const { models, ...head } = p;
  return JSON.stringify(head).slice(0, -1) + ',"models":[\n' + models.map((m) => JSON.stringify(m)).join(",\n") + "\n]}";
});
process.stdout.write(`{"version":"genai-prices@${version}","providers":[\n${lines.join(",\n")}\n]}\n`);
