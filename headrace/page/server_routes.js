// Routes: the targets behind a name, and whether requests reach them.
import { useEffect, useState } from "preact/hooks";
import { html } from "./html.js";
import { getJson } from "./api.js";

const EVERY_MS = 5000;
const path = id => `v1/models/${id.split("/").map(encodeURIComponent).join("/")}/route`;

/** The routes of a server. They are listed as models of its own that nothing loads. */
async function readRoutes() {
  const { data } = await getJson("v1/models?detail=true");
  const own = data.filter(model => model.owned_by === "headrace" && !model.status && !model.id.includes("@"));
  const found = await Promise.all(own.map(model => getJson(path(model.id))));
  return found.filter(one => one.route !== null);
}

export function Routes() {
  const [routes, setRoutes] = useState([]);
  useEffect(() => {
    const look = () => readRoutes().then(setRoutes, () => {}); // the view of models tells what is wrong
    look();
    const timer = setInterval(() => document.hidden || look(), EVERY_MS);
    return () => clearInterval(timer);
  }, []);
  if (routes.length === 0) return null;
  return html`<section><h2>Routes</h2><div class="scrolls" tabindex="0" role="region" aria-label="Routes"><table>
    <thead><tr><th scope="col">Route</th><th scope="col">Target</th><th scope="col">Weight</th><th scope="col">Breaker</th></tr></thead>
    <tbody>${routes.flatMap(route => route.candidates.map((one, index) => html`<tr>
      <th scope="row">${index === 0 ? route.route : ""}</th><td>${one.provider}: ${one.model}${one.is_served ? "" : " (not served)"}</td>
      <td>${one.weight ?? "in order"}</td><td>${breaker(one)}</td></tr>`))}</tbody></table></div></section>`;
}

const breaker = one => (one.breaker === null ? "–" : one.retry_after_s ? `${one.breaker}, again in ${Math.ceil(one.retry_after_s)} s` : one.breaker);
