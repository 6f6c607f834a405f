// The server as its owner sees it: models, requests, and what the engine does.
import { useEffect, useRef, useState } from "preact/hooks";
import { html } from "./html.js";
import { address, getJson } from "./api.js";
import { readMetrics, SERIES, valueOf } from "./metrics.js";
import { Keys, Usage } from "./server_keys.js";
import { Routes } from "./server_routes.js";
import { Logs } from "./server_logs.js";
import { ModelTable } from "./server_models.js";
import { Requests, readRequests } from "./server_requests.js";

const EVERY_MS = 2000;
const POINTS = 90;

export function Server() {
  const [health, setHealth] = useState(null);
  const [history, setHistory] = useState([]); // [{at, metrics}]
  const [requests, setRequests] = useState(null); // null: not for this caller
  const [links, setLinks] = useState({}); // what this server has
  const [problem, setProblem] = useState("");
  const isAdmin = useRef(true);
  useEffect(() => {
    let isOpen = true;
    const look = async () => {
      if (document.hidden) return;
      try {
        const [health, metrics] = await Promise.all([getJson("health"), readMetrics()]);
        if (!isOpen) return;
        setHealth(health);
        setProblem("");
        if (isAdmin.current) setRequests(await readRequests().catch(refused));
        if (metrics) setHistory(known => [...known.slice(1 - POINTS), { at: Date.now() / 1000, metrics }]);
      } catch (error) {
        if (isOpen) setProblem(error.message);
      }
    };
    const refused = error => {
      if (error.status !== 403) throw error;
      isAdmin.current = false;
      return null;
    };
    getJson("").then(found => setLinks(found.links), () => {});
    look();
    const timer = setInterval(look, EVERY_MS);
    return () => { isOpen = false; clearInterval(timer); };
  }, []);
  return html`<div class="server">
    ${problem && html`<p class="error" role="alert">${problem}</p>`}
    <section><h2>State</h2>${health ? html`<${Facts} facts=${health} />` : html`<p role="status">Loading…</p>`}</section>
    <section><h2>For clients</h2><p>The base URL is <code>${address("v1")}</code>. <a href="docs">Try the API</a> or <a href="redoc">read about it</a>.</p></section>
    <${ModelTable} isAdmin=${requests !== null} />
    <${Routes} />
    ${requests && html`<${Requests} requests=${requests} />`}
    ${history.length > 0 && html`<section><h2>What happens</h2><div class="charts">
      ${SERIES.map(series => html`<${Chart} series=${series} history=${history} />`)}</div></section>`}
    ${requests && links.keys && html`<${Keys} />`}
    ${links.usage && html`<${Usage} />`}
    ${requests && links.logs && html`<${Logs} />`}
  </div>`;
}

const Facts = ({ facts }) => html`<dl class="facts">${Object.entries(facts)
  .filter(([, value]) => ["string", "number", "boolean"].includes(typeof value))
  .map(([name, value]) => html`<div><dt>${name.replaceAll("_", " ")}</dt><dd>${String(value)}</dd></div>`)}</dl>`;

function Chart({ series, history }) {
  const box = useRef(null);
  const plot = useRef(null);
  const times = history.map(point => point.at);
  const values = history.map((point, index) =>
    valueOf(series, history[index - 1]?.metrics, point.metrics, point.at - (history[index - 1]?.at ?? point.at)));
  const now = values.at(-1);
  useEffect(() => {
    const { color } = getComputedStyle(box.current); // a canvas knows no variables
    const options = {
      width: box.current.clientWidth || 240, height: 60, cursor: { show: false }, legend: { show: false },
      axes: [{ show: false }, { show: false }], scales: { y: { range: (_, low, high) => [0, Math.max(high * 1.2, 1)] } },
      series: [{}, { stroke: color, width: 2, points: { show: false } }],
    };
    plot.current = new uPlot(options, [times, values], box.current);
    return () => plot.current.destroy();
  }, []);
  useEffect(() => plot.current?.setData([times, values]), [history]);
  return html`<figure><figcaption>${series.title} <strong>${now === null ? "–" : now.toFixed(now < 10 && !Number.isInteger(now) ? 1 : 0)}${series.isShare ? " %" : ""}</strong></figcaption>
    <div ref=${box} aria-hidden="true" /></figure>`;
}
