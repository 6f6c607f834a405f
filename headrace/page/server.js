// The server as its owner sees it: models, requests, and what the engine does.
import { useEffect, useRef, useState } from "preact/hooks";
import { html } from "./html.js";
import { getJson } from "./api.js";
import { readMetrics, SERIES, valueOf } from "./metrics.js";
import { ModelTable } from "./server_models.js";
import { Requests } from "./server_requests.js";

const EVERY_MS = 2000;
const POINTS = 90;

export function Server() {
  const [health, setHealth] = useState(null);
  const [history, setHistory] = useState([]); // [{at, metrics}]
  const [problem, setProblem] = useState("");
  useEffect(() => {
    let isOpen = true;
    const look = async () => {
      if (document.hidden) return;
      try {
        const [health, metrics] = await Promise.all([getJson("health"), readMetrics()]);
        if (!isOpen) return;
        setHealth(health);
        setProblem("");
        if (metrics) setHistory(known => [...known.slice(1 - POINTS), { at: Date.now() / 1000, metrics }]);
      } catch (error) {
        if (isOpen) setProblem(error.message);
      }
    };
    look();
    const timer = setInterval(look, EVERY_MS);
    return () => { isOpen = false; clearInterval(timer); };
  }, []);
  return html`<div class="server">
    ${problem && html`<p class="error" role="alert">${problem}</p>`}
    <section><h2>State</h2>${health ? html`<${Facts} facts=${health} />` : html`<p role="status">Loading…</p>`}</section>
    <${ModelTable} />
    <${Requests} />
    ${history.length > 0 && html`<section><h2>What happens</h2><div class="charts">
      ${SERIES.map(series => html`<${Chart} series=${series} history=${history} />`)}</div></section>`}
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
    const color = getComputedStyle(box.current).getPropertyValue("--accent");
    const options = {
      width: box.current.clientWidth || 240, height: 60, cursor: { show: false }, legend: { show: false },
      axes: [{ show: false }, { show: false }], scales: { y: { range: (_, low, high) => [0, Math.max(high, 1)] } },
      series: [{}, { stroke: color, width: 2, points: { show: false } }],
    };
    plot.current = new uPlot(options, [times, values], box.current);
    return () => plot.current.destroy();
  }, []);
  useEffect(() => plot.current?.setData([times, values]), [history]);
  return html`<figure><figcaption>${series.title} <strong>${now === null ? "–" : now.toFixed(now < 10 ? 1 : 0)}${series.isShare ? " %" : ""}</strong></figcaption>
    <div ref=${box} aria-hidden="true" /></figure>`;
}
