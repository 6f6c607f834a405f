// Keys and what each has used: an administrator's, on servers that take stored keys.
import { useEffect, useState } from "preact/hooks";
import { html } from "./html.js";
import { getJson, postJson, request } from "./api.js";

const EVERY_MS = 10_000; // how often usage is read again

const day = seconds => (seconds ? new Date(seconds * 1000).toISOString().slice(0, 10) : "–");

/** Sums by key and model over the days of a page of usage, the most tokens first. */
export function summed(page) {
  const rows = new Map();
  for (const { results } of page.data)
    for (const one of results) {
      const id = `${one.api_key_id} ${one.model}`;
      const row = rows.get(id) ?? { key: one.api_key_name ?? one.api_key_id, model: one.model, requests: 0, input: 0, output: 0, cost: 0 };
      row.requests += one.num_model_requests;
      row.input += one.input_tokens;
      row.output += one.output_tokens;
      row.cost += one.cost;
      rows.set(id, row);
    }
  return [...rows.values()].sort((a, b) => b.input + b.output - a.input - a.output);
}

export function Keys() {
  const [keys, setKeys] = useState([]);
  const [name, setName] = useState("");
  const [secret, setSecret] = useState(null); // of the key that was made last; it is shown once
  const [problem, setProblem] = useState("");
  const look = () => getJson("v1/admin/keys?limit=100").then(list => setKeys(list.data));
  const attempt = work => work().then(look).catch(error => setProblem(error.message));
  useEffect(() => { attempt(async () => {}); }, []);
  const create = event => {
    event.preventDefault();
    attempt(async () => { setSecret(await postJson("v1/admin/keys", { name })); setName(""); });
  };
  const rotate = key => attempt(async () => setSecret(await postJson(`v1/admin/keys/${key.id}/rotate`, {})));
  const revoke = key => confirm(`Revoke “${key.name}”? Its requests are refused from now on.`) && attempt(() => request("DELETE", `v1/admin/keys/${key.id}`));
  return html`<section><h2>Keys</h2>
    ${problem && html`<p class="error" role="alert">${problem}</p>`}
    <form class="row" onSubmit=${create}><input aria-label="Name of the new key" placeholder="Name of a new key" required value=${name}
      onInput=${event => setName(event.target.value)} /><button>Create</button></form>
    ${secret && html`<p role="status">The key of <strong>${secret.name}</strong>, which is not shown again: <code>${secret.value}</code></p>`}
    ${keys.length > 0 && html`<div class="scrolls" tabindex="0" role="region" aria-label="Keys"><table>
      <thead><tr><th scope="col">Name</th><th scope="col">Key</th><th scope="col">Models</th><th scope="col">Made</th><th scope="col">Until</th><td></td></tr></thead>
      <tbody>${keys.map(key => html`<tr key=${key.id}><th scope="row">${key.name}</th><td><code>${key.redacted_value}</code></td>
        <td>${key.models.join(", ") || "all"}</td><td>${day(key.created_at)}</td><td>${key.revoked_at ? "revoked" : day(key.expires_at)}</td>
        <td>${!key.revoked_at && html`<button type="button" class="quiet" onClick=${() => rotate(key)}>Rotate</button>
          <button type="button" class="quiet" onClick=${() => revoke(key)}>Revoke</button>`}</td></tr>`)}</tbody></table></div>`}
  </section>`;
}

export function Usage() {
  const [rows, setRows] = useState(null);
  useEffect(() => {
    const look = () => document.hidden || getJson("v1/usage").then(page => setRows(summed(page)), () => setRows(known => known ?? []));
    look();
    const timer = setInterval(look, EVERY_MS);
    return () => clearInterval(timer);
  }, []);
  if (rows === null) return null;
  return html`<section><h2>Usage, 30 days</h2>${rows.length === 0 ? html`<p class="hint">Nothing was used yet.</p>` : html`
    <div class="scrolls" tabindex="0" role="region" aria-label="Usage"><table>
      <thead><tr><th scope="col">Key</th><th scope="col">Model</th><th scope="col">Requests</th><th scope="col">Tokens read</th><th scope="col">Tokens written</th><th scope="col">Cost</th></tr></thead>
      <tbody>${rows.map(row => html`<tr><th scope="row">${row.key}</th><td>${row.model}</td><td>${row.requests}</td><td>${row.input}</td>
        <td>${row.output}</td><td>${row.cost ? row.cost.toFixed(4) : "–"}</td></tr>`)}</tbody></table></div>`}</section>`;
}
