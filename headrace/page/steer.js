// Steering: what a model may be steered with, a dose of it, and which of its features are active on a token.
import { useEffect, useState } from "preact/hooks";
import { html } from "./html.js";
import { getJson, postJson } from "./api.js";

const NOTHING = { saes: [], vectors: [] };
export const NO_STEERING = { with: "", feature: "", dose: 0 };
const USUAL_DOSE = { vector: 1, sae: 0.3 };

/** What a model may be steered with: {saes, vectors}, by their ids. */
export function useSteerable(model) {
  const [known, setKnown] = useState(NOTHING);
  useEffect(() => {
    let isWanted = true;
    getJson("v1/steering/capabilities")
      .then(found => isWanted && setKnown(found.models.find(one => one.model === model) ?? NOTHING))
      .catch(() => {}); // then there is nothing to steer with
    return () => { isWanted = false; };
  }, [model]);
  return known;
}

/** The member `steering` of a request, or undefined. */
export function steeringOf({ with: id, feature, dose }) {
  const [kind, name] = split(id);
  if (!name || !dose || (kind === "sae" && feature === "")) return undefined;
  const op = kind === "vector"
    ? { vector: name, value: dose }
    : { sae: name, feature: Number(feature), mode: "clamp", value: dose, unit: "relative" };
  return { ops: [op], apply: { roles: ["assistant"] } };
}

const split = id => [id.slice(0, id.indexOf(":")), id.slice(id.indexOf(":") + 1)];

/** Chooses a vector or a feature, and its dose. `onDone`: the slider was released. */
export function Dose({ model, value, label, onChange, onDone }) {
  const { saes, vectors } = useSteerable(model);
  const [kind, name] = split(value.with);
  const [features, setFeatures] = useState([]);
  useEffect(() => {
    if (kind !== "sae") return;
    getJson(`v1/saes/${encodeURIComponent(name)}/features?limit=100`).then(found => setFeatures(found.data), () => setFeatures([]));
  }, [value.with]);
  if (saes.length + vectors.length === 0) return null;
  const pick = event => {
    const [kind] = split(event.target.value);
    onChange({ with: event.target.value, feature: "", dose: USUAL_DOSE[kind] ?? 0 });
  };
  const list = `features-${label.replaceAll(/\W/g, "")}`;
  return html`<fieldset class="dose"><legend>${label}</legend>
    <select aria-label=${`${label}: with`} value=${value.with} onChange=${pick}>
      <option value="">nothing</option>
      ${vectors.map(id => html`<option value=${`vector:${id}`}>vector ${id}</option>`)}
      ${saes.map(id => html`<option value=${`sae:${id}`}>a feature of ${id}</option>`)}</select>
    ${kind === "sae" && html`<input type="number" min="0" placeholder="number" list=${list} aria-label=${`${label}: feature`} value=${value.feature}
        onInput=${event => onChange({ ...value, feature: event.target.value })} />
      <datalist id=${list}>${features.map(one => html`<option value=${one.feature}>${one.label}</option>`)}</datalist>`}
    ${name && html`<label class="slider">Dose <input type="range" min="-2" max="2" step="0.1" aria-label=${`${label}: dose`} value=${value.dose}
        onInput=${event => onChange({ ...value, dose: Number(event.target.value) })} onChange=${onDone} />
      <output>${value.dose.toFixed(1)}</output></label>`}</fieldset>`;
}

/** The features that are active on an answer's token. `messages`: the conversation with the answer at its end. */
export function Features({ tokens, chosen, messages, model }) {
  const { saes } = useSteerable(model);
  const [sae, setSae] = useState("");
  const [found, setFound] = useState(null);
  const [problem, setProblem] = useState("");
  const name = saes.includes(sae) ? sae : saes[0];
  useEffect(() => {
    if (!name) return;
    setFound(null);
    postJson("v1/activations", { model, sae: name, messages, top_k: 5 })
      .then(read => setFound(aligned(read.feature_activations.content, tokens)))
      .catch(error => setProblem(error.message));
  }, [name]);
  if (!name) return null;
  if (problem) return html`<p class="error">${problem}</p>`;
  const top = found?.[chosen]?.top ?? [];
  const steer = feature => {
    sessionStorage.setItem("steer", JSON.stringify({ with: `sae:${name}`, feature: String(feature), dose: USUAL_DOSE.sae }));
    location.hash = "#/compare";
  };
  return html`<section class="features"><h4>Features${saes.length > 1 ? html` of <select aria-label="SAE" value=${name}
      onChange=${event => setSae(event.target.value)}>${saes.map(id => html`<option value=${id}>${id}</option>`)}</select>` : ` of ${name}`}</h4>
    ${found === null ? html`<p class="hint" role="status">Reading…</p>` : top.length === 0 ? html`<p class="hint">None is active on this token.</p>` : html`
      <table class="alternatives"><tbody>${top.map(one => html`<tr><th scope="row">${one.label ?? `feature ${one.feature}`}</th>
        <td>${one.activation.toFixed(2)}</td>
        <td><button type="button" class="quiet" onClick=${() => steer(one.feature)}>Steer with it</button></td></tr>`)}</tbody></table>`}
  </section>`;
}

/** The readings of an answer's tokens: the last place in a text where they stand one after another. */
export function aligned(content, tokens) {
  const isAt = start => tokens.every((one, index) => content[start + index]?.token === one.token);
  for (let start = content.length - tokens.length; start >= 0; start--) if (isAt(start)) return content.slice(start, start + tokens.length);
  return [];
}

/** The steering that another view has requested, once. */
export function takenSteering() {
  const text = sessionStorage.getItem("steer");
  sessionStorage.removeItem("steer");
  return text ? JSON.parse(text) : null;
}
