// The server's last log lines. They have no content of requests.
import { useEffect, useRef, useState } from "preact/hooks";
import { html } from "./html.js";
import { getJson } from "./api.js";

const EVERY_MS = 3000;
const SHOWN = 200;

export function Logs() {
  const [lines, setLines] = useState([]);
  const [isOpen, setOpen] = useState(false);
  const last = useRef(0);
  useEffect(() => {
    if (!isOpen) return;
    const look = async () => {
      const list = await getJson(`v1/admin/logs?after=${last.current}`).catch(() => ({ data: [] }));
      if (list.data.length === 0) return;
      last.current = list.data.at(-1).id;
      setLines(known => [...known, ...list.data].slice(-SHOWN));
    };
    look();
    const timer = setInterval(() => document.hidden || look(), EVERY_MS);
    return () => clearInterval(timer);
  }, [isOpen]);
  return html`<section><details class="logs" open=${isOpen} onToggle=${event => setOpen(event.target.open)}><summary><h2>Log</h2></summary>
    ${lines.length === 0 ? html`<p class="hint">No lines yet, at this level of logging.</p>` : html`
      <pre tabindex="0" role="log" aria-label="Log lines">${lines.map(line => html`<span class=${line.level}>${line.time.slice(11, 19)} ${line.level.padEnd(7)} ${line.message}${"\n"}</span>`)}</pre>`}
  </details></section>`;
}
