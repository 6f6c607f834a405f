// The requests that run now, with a button that stops one. They are an administrator's to see.
import { useState } from "preact/hooks";
import { html } from "./html.js";
import { request } from "./api.js";

export const readRequests = async () => (await (await request("GET", "v1/admin/requests")).json()).data;

export function Requests({ requests }) {
  const [problem, setProblem] = useState("");
  const stop = id => request("DELETE", `v1/admin/requests/${id}`).catch(error => setProblem(error.message));
  return html`<section><h2>Requests</h2>
    ${problem && html`<p class="error" role="alert">${problem}</p>`}
    ${requests.length === 0 ? html`<p class="hint">Nothing runs.</p>` : html`
      <div class="scrolls" tabindex="0" role="region" aria-label="Requests"><table>
        <thead><tr><th scope="col">Request</th><th scope="col">Model</th><th scope="col">Key</th><th scope="col">State</th><th scope="col">Since</th><td></td></tr></thead>
        <tbody>${requests.map(one => html`<tr key=${one.id}><th scope="row"><code>${one.id}</code></th><td>${one.model}</td>
          <td>${one.api_key_name ?? one.api_key_id ?? "–"}</td><td>${one.status}</td><td>${one.seconds.toFixed(0)} s</td>
          <td><button type="button" class="quiet" onClick=${() => stop(one.id)}>Stop</button></td></tr>`)}</tbody></table></div>`}
  </section>`;
}
