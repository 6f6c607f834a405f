// Which model answers: a list grouped by who serves it.
import { html } from "./html.js";

/** Whether a model reads images, as far as the server knows. */
export const canSee = model => model?.input_modalities?.includes("image") ?? true;

export function ModelPicker({ models, value, onPick, label = "Model" }) {
  const owners = [...new Set(models.map(model => model.owned_by))];
  const options = list => list.map(model => html`<option value=${model.id}>${model.id}${model.input_modalities?.includes("image") ? " (sees images)" : ""}</option>`);
  return html`<select aria-label=${label} value=${value} onChange=${event => onPick(event.target.value)}>
    ${owners.length < 2
      ? options(models)
      : owners.map(owner => html`<optgroup label=${owner}>${options(models.filter(model => model.owned_by === owner))}</optgroup>`)}
  </select>`;
}
