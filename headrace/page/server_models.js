// The models of the server, and what an owner does with them.
import { useEffect, useState } from "preact/hooks";
import { html } from "./html.js";
import { getJson } from "./api.js";

export function ModelTable() {
  const [models, setModels] = useState([]);
  const [problem, setProblem] = useState("");
  useEffect(() => { getJson("v1/models").then(list => setModels(list.data), error => setProblem(error.message)); }, []);
  return html`<section><h2>Models</h2>
    ${problem && html`<p class="error" role="alert">${problem}</p>`}
    <div class="scrolls" tabindex="0" role="region" aria-label="Models"><table><thead><tr><th scope="col">Model</th><th scope="col">Served by</th><th scope="col">Context</th></tr></thead>
      <tbody>${models.map(model => html`<tr key=${model.id}><th scope="row">${model.id}</th><td>${model.owned_by}</td>
        <td>${model.max_model_len ?? "–"}</td></tr>`)}</tbody></table></div></section>`;
}
