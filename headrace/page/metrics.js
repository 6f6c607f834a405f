// The server's metrics, in Prometheus' text format, as numbers.
import { getJson, request } from "./api.js";

/** Sums by name over all labels, or null where the server has no metrics. */
export async function readMetrics() {
  const { links } = await getJson(""); // a browser's console shows each 404 as an error, so nothing is tried
  if (!links.metrics) return null;
  const response = await request("GET", "metrics", undefined, { isOptional: true }).catch(() => null); // an administrator's
  return response && sums(await response.text());
}

export function sums(text) {
  const found = {};
  for (const line of text.split("\n")) {
    const match = /^([a-zA-Z_:][\w:]*)(?:\{.*\})?\s+(\S+)/.exec(line);
    if (match) found[match[1]] = (found[match[1]] ?? 0) + Number(match[2]);
  }
  return found;
}

/** The series of the page: a level is shown as it is, a counter as its change in a second. */
export const SERIES = [
  { title: "Tokens a second", names: ["vllm:generation_tokens_total"], isCounter: true },
  { title: "Running requests", names: ["vllm:num_requests_running"] },
  { title: "Queued requests", names: ["vllm:num_requests_waiting"] },
  { title: "KV cache in use", names: ["vllm:kv_cache_usage_perc"], isShare: true },
  { title: "Prompt tokens from the cache, a second", names: ["vllm:prefix_cache_hits_total"], isCounter: true },
];

export function valueOf(series, before, now, seconds) {
  const read = metrics => series.names.map(name => metrics?.[name]).find(value => value !== undefined);
  const value = read(now);
  if (value === undefined) return null;
  if (series.isShare) return value * 100;
  if (!series.isCounter) return value;
  return before ? Math.max(0, value - (read(before) ?? 0)) / seconds : 0;
}
