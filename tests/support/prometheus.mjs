// A strict parser of Prometheus' text format, version 0.0.4:
// https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
// It throws at anything that the format, or a histogram's rules, do not allow.

const METRIC = /^[a-zA-Z_:][a-zA-Z0-9_:]*/;
const LABEL = /^([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"/;
const VALUE = /^(?:[+-]?Inf|NaN|[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)$/;
const TYPES = ["counter", "gauge", "histogram", "summary", "untyped"];

const unescaped = (text) => text.replaceAll(/\\(.)/g, (_, char) => (char === "n" ? "\n" : char));
const number = (text) => Number(text.replace("Inf", "Infinity"));

function sampleOf(line) {
  const fail = (what) => {
    throw new Error(`${what}: ${line}`);
  };
  const [name] = line.match(METRIC) ?? fail("no name");
  let rest = line.slice(name.length);
  const labels = {};
  if (rest.startsWith("{")) {
    rest = rest.slice(1);
    while (!rest.startsWith("}")) {
      const [whole, label, value] = rest.match(LABEL) ?? fail("a bad label");
      if (label in labels) fail("a label twice");
      labels[label] = unescaped(value);
      rest = rest.slice(whole.length);
      if (rest.startsWith(",")) rest = rest.slice(1);
      else if (!rest.startsWith("}")) fail("no end of the labels");
    }
    rest = rest.slice(1);
  }
  if (!rest.startsWith(" ") || !VALUE.test(rest.slice(1))) fail("a bad value");
  return { name, labels, value: number(rest.slice(1)) };
}

const keyOf = ({ name, labels }) => `${name}${JSON.stringify(Object.entries(labels).sort())}`;

function checkHistogram(name, samples) {
  const series = new Map();
  for (const { name: full, labels, value } of samples) {
    const { le, ...others } = labels;
    const key = keyOf({ name, labels: others });
    if (!series.has(key)) series.set(key, { buckets: [] });
    const part = full.slice(name.length);
    if (part === "_bucket") series.get(key).buckets.push([number(le), value]);
    else series.get(key)[part] = value;
  }
  for (const [key, { buckets, _sum: sum, _count: count }] of series) {
    const isOrdered = buckets.every(([le, n], at) => at === 0 || (buckets[at - 1][0] < le && buckets[at - 1][1] <= n));
    if (!isOrdered) throw new Error(`${key}: buckets that are not cumulative`);
    if (buckets.at(-1)?.[0] !== Infinity || buckets.at(-1)[1] !== count) throw new Error(`${key}: no bucket +Inf`);
    if (!(sum >= 0)) throw new Error(`${key}: no sum`);
  }
}

// The samples of a text, as an array with the method `get(name, labels)`: the sum of the values of all series that have
// these labels.
export function parse(text) {
  if (!text.endsWith("\n")) throw new Error("the last line has no end");
  const [samples, seen, families] = [[], new Set(), new Map()];
  let family;
  for (const line of text.slice(0, -1).split("\n")) {
    const [, keyword, name, rest] = line.match(/^# (HELP|TYPE) ([^ ]+) (.+)$/) ?? [];
    if (keyword === "HELP") {
      if (families.has(name)) throw new Error(`${name} comes twice`);
      families.set(name, (family = { name, samples: [] }));
    } else if (keyword === "TYPE") {
      if (family?.name !== name || family.type || !TYPES.includes(rest)) throw new Error(`a bad type: ${line}`);
      family.type = rest;
    } else {
      const sample = sampleOf(line);
      const ends = family?.type === "histogram" ? ["_bucket", "_sum", "_count"] : [""];
      if (!ends.some((end) => sample.name === `${family?.name}${end}`)) throw new Error(`not of its family: ${line}`);
      if (seen.has(keyOf(sample))) throw new Error(`twice: ${line}`);
      if (family.type === "counter" && !(sample.value >= 0)) throw new Error(`a bad counter: ${line}`);
      seen.add(keyOf(sample));
      family.samples.push(sample);
      samples.push(sample);
    }
  }
  for (const { name, type, samples } of families.values()) {
    if (!type || samples.length === 0) throw new Error(`${name}: no type or no samples`);
    if (type === "histogram") checkHistogram(name, samples);
  }
  samples.get = (name, labels = {}) => {
    const isOf = (sample) =>
      sample.name === name && Object.entries(labels).every(([label, value]) => sample.labels[label] === String(value));
    return samples.filter(isOf).reduce((sum, { value }) => sum + value, 0);
  };
  return samples;
}
