// The models of the server: what state each is in, and what an administrator does with them.
import { useEffect, useState } from "preact/hooks";
import { html } from "./html.js";
import { getJson, postJson } from "./api.js";

const EVERY_MS = 1500;
const MIB = 2 ** 20;

export function ModelTable({ isAdmin }) {
  const [models, setModels] = useState([]);
  const [busy, setBusy] = useState({}); // id → what is being done to it
  const [problem, setProblem] = useState("");
  const look = () => getJson("v1/models?detail=true").then(list => setModels(list.data), error => setProblem(error.message));
  useEffect(() => {
    look();
    const timer = setInterval(() => document.hidden || look(), EVERY_MS);
    return () => clearInterval(timer);
  }, []);
  const change = async (verb, id) => {
    setBusy(known => ({ ...known, [id]: verb }));
    setProblem("");
    await postJson(`v1/models/${verb}`, { model: id }).catch(error => setProblem(error.message));
    setBusy(({ [id]: _, ...rest }) => rest);
    await look();
  };
  return html`<section><h2>Models</h2>
    ${problem && html`<p class="error" role="alert">${problem}</p>`}
    ${isAdmin && models.some(model => model.status) && html`<${Pull} onPull=${id => change("pull", id)} />`}
    <div class="scrolls" tabindex="0" role="region" aria-label="Models"><table>
      <thead><tr><th scope="col">Model</th><th scope="col" class="only-wide">Served by</th><th scope="col" class="only-wide">Context</th><th scope="col">State</th>
        <th scope="col">Memory</th><th scope="col" class="only-wide">Requests</th><td></td></tr></thead>
      <tbody>${models.map(model => html`<${Row} key=${model.id} model=${model} doing=${busy[model.id]} onChange=${change} />`)}</tbody></table></div></section>`;
}

function Pull({ onPull }) {
  const [name, setName] = useState("");
  const pull = event => { event.preventDefault(); onPull(name.trim()); setName(""); };
  return html`<form class="row" onSubmit=${pull}><input aria-label="Model to pull" placeholder="qwen3-0.6b, or hf:ORG/REPO" required value=${name}
    onInput=${event => setName(event.target.value)} /><button>Pull</button></form>`;
}

const VERBS = { absent: "pull", ready: "load", failed: "load", loaded: "unload" };
const TITLES = { pull: "Pull", load: "Load", unload: "Unload" };

function Row({ model, doing, onChange }) {
  const { status } = model;
  const verb = VERBS[status?.state];
  return html`<tr><th scope="row">${model.id}</th><td class="only-wide">${model.owned_by}</td><td class="only-wide">${model.max_model_len ?? "–"}</td>
    <td>${status ? html`<${State} status=${status} />` : "–"}</td>
    <td>${status?.memory_bytes ? `${Math.round(status.memory_bytes / MIB)} MiB` : "–"}</td>
    <td class="only-wide">${status ? `${status.running}${status.waiting ? `, ${status.waiting} wait` : ""}` : "–"}</td>
    <td>${verb && html`<button type="button" class="quiet" disabled=${doing} onClick=${() => onChange(verb, model.id)}>${TITLES[verb]}</button>`}</td></tr>`;
}

function State({ status }) {
  const { progress } = status;
  if (progress?.total)
    return html`${progress.label} <progress max=${progress.total} value=${progress.done} aria-label=${`${status.id}: ${progress.label}`} />`;
  return html`<span title=${status.error}>${status.state}${status.pinned ? ", pinned" : ""}${status.hold ? `, held by ${status.hold.holder}` : ""}</span>`;
}
