// The settings of a chat, in a drawer: its instructions and how it answers.
import { html } from "./html.js";

export const DEFAULTS = {
  instructions: "", temperature: "", top_p: "", max_output_tokens: "", effort: "", tools: "", schema: "", logprobs: true,
};

export function Settings({ settings, onChange, onClose }) {
  const set = name => event =>
    onChange({ ...settings, [name]: event.target.type === "checkbox" ? event.target.checked : event.target.value });
  const number = (name, label, step, max) => html`
    <label>${label}<input type="number" min="0" max=${max} step=${step} placeholder="the model's default"
      value=${settings[name]} onInput=${set(name)} /></label>`;
  return html`
    <aside class="drawer" aria-label="Settings of this chat">
      <header><h2>Settings</h2><button type="button" class="quiet" aria-label="Close the settings" onClick=${onClose}>✕</button></header>
      <label>System prompt<textarea rows="4" placeholder="You are…" value=${settings.instructions} onInput=${set("instructions")} /></label>
      ${number("temperature", "Temperature", 0.1, 2)}
      ${number("top_p", "Top p", 0.05, 1)}
      ${number("max_output_tokens", "Longest answer, tokens", 1)}
      <label>Reasoning effort<select value=${settings.effort} onChange=${set("effort")}>
        ${["", "low", "medium", "high"].map(one => html`<option value=${one}>${one || "the model's default"}</option>`)}</select></label>
      <label class="check"><input type="checkbox" checked=${settings.logprobs} onChange=${set("logprobs")} />
        Probabilities of the tokens, where the model has them</label>
      <details><summary>Advanced</summary>
        <label>Tools, as JSON<textarea rows="5" spellcheck="false" placeholder='[{"type": "function", "name": …}]'
          value=${settings.tools} onInput=${set("tools")} /></label>
        <label>JSON schema of the answer<textarea rows="5" spellcheck="false" placeholder='{"type": "object", …}'
          value=${settings.schema} onInput=${set("schema")} /></label></details>
    </aside>`;
}
