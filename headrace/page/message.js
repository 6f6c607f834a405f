// One message of a chat: a question, an answer with its thoughts and calls, a tool's result.
import { render } from "preact";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { html } from "./html.js";
import { rendered } from "./markdown.js";
import { Tokens } from "./tokens.js";
import { messagesTo, textOf, tokensOf } from "./tree.js";
import { curl } from "./api.js";

export function Message(props) {
  const { item } = props;
  if (item.type === "reasoning") return html`<${Thought} ...${props} />`;
  if (item.type === "function_call") return html`<${Call} ...${props} />`;
  if (item.type === "function_call_output") return html`<${Result} item=${item} />`;
  if (item.role === "user") return html`<${Question} ...${props} />`;
  if (item.role === "assistant") return html`<${Answer} ...${props} />`;
  return html`<article class="note"><h3>${item.role ?? item.type}</h3><p>${textOf(item)}</p></article>`;
}

function Siblings({ node, onSwitch }) {
  const all = node?.parent?.children ?? [];
  if (all.length < 2) return null;
  const index = all.indexOf(node);
  const arrow = (step, sign, label) => html`
    <button type="button" class="quiet" aria-label=${label} disabled=${!all[index + step]}
      onClick=${() => onSwitch(all[index + step])}>${sign}</button>`;
  return html`<span class="siblings">${arrow(-1, "‹", "Earlier version")}
    <span>${index + 1} / ${all.length}</span>${arrow(1, "›", "Later version")}</span>`;
}

function Question({ item, node, unsent, onEdit, onSwitch, isBusy }) {
  const [draft, setDraft] = useState(unsent ?? null);
  const images = (item.content ?? []).filter?.(part => part.type === "input_image") ?? [];
  const save = event => {
    event.preventDefault();
    setDraft(null);
    onEdit(node, draft, images);
  };
  const keys = event => event.key === "Escape" && setDraft(null);
  if (draft !== null)
    return html`<form class="message user editing" onSubmit=${save} onKeyDown=${keys}>
      <textarea aria-label="Edit the question" dir="auto" rows="4" value=${draft} onInput=${e => setDraft(e.target.value)}
        ref=${area => area?.dataset.seen ?? (area && (area.dataset.seen = area.focus() ?? "yes"))} />
      <div class="actions"><button>Send as a branch</button>
        <button type="button" class="quiet" onClick=${() => setDraft(null)}>Cancel</button></div></form>`;
  return html`
    <article class="message user" data-role="user" aria-label="Question">
      ${images.map(image => html`<img src=${image.image_url} alt="Attached" />`)}
      <p dir="auto">${textOf(item)}</p>
      <div class="actions"><${Siblings} node=${node} onSwitch=${onSwitch} />
        ${node && html`<button type="button" class="quiet" disabled=${isBusy} onClick=${() => setDraft(textOf(item))}>Edit</button>`}</div>
    </article>`;
}

function Answer({ item, node, turn, model, onSwitch, onRegenerate, isBusy }) {
  const [view, setView] = useState("text");
  const text = textOf(item);
  const tokens = tokensOf(item);
  const toggle = name => () => setView(view === name ? "text" : name);
  return html`
    <article class="message assistant" data-role="assistant" aria-label="Answer">
      ${view === "tokens" ? html`<${Tokens} tokens=${tokens} usage=${turn?.usage} model=${turn?.body.model ?? model} messages=${node && messagesTo(node, turn?.body.instructions)} />` : html`<${Markdown} text=${text} />`}
      ${view === "raw" && html`<${Raw} item=${item} turn=${turn} />`}
      ${item.status === "incomplete" && node && html`<p class="cut">This answer was cut: it reached its limit, failed or was stopped.</p>`}
      ${node && html`<div class="actions"><${Siblings} node=${node} onSwitch=${onSwitch} />
        <${Copy} text=${text} label="Copy" />
        <button type="button" class="quiet" disabled=${isBusy} onClick=${() => onRegenerate(node)}>Regenerate</button>
        ${tokens.length > 0 && html`<button type="button" class="quiet" aria-pressed=${view === "tokens"} onClick=${toggle("tokens")}>Tokens</button>`}
        <button type="button" class="quiet" aria-pressed=${view === "raw"} onClick=${toggle("raw")}>Raw</button></div>`}
    </article>`;
}

export function Markdown({ text }) {
  const content = useMemo(() => rendered(text), [text]);
  const box = useRef(null);
  useEffect(() => {
    box.current.querySelectorAll("pre").forEach(withCopy);
    box.current.querySelectorAll("table").forEach(withScroll);
  }, [content]);
  return html`<div class="markdown" dir="auto" ref=${box} dangerouslySetInnerHTML=${{ __html: content }} />`;
}

/** Let a wide table scroll by itself. */
function withScroll(table) {
  const frame = Object.assign(document.createElement("div"), { className: "scrolls", tabIndex: 0, role: "region", ariaLabel: "Table" });
  table.replaceWith(frame);
  frame.append(table);
}

/** Put a button that copies it into a block of code. */
function withCopy(block) {
  const frame = document.createElement("div");
  frame.className = "code";
  block.tabIndex = 0; // it may scroll
  block.replaceWith(frame);
  frame.append(block);
  render(html`<${Copy} text=${block.textContent} label="Copy code" />`, frame.appendChild(document.createElement("span")));
}

export function Copy({ text, label }) {
  const [isDone, setDone] = useState(false);
  const copy = async () => {
    await navigator.clipboard.writeText(text);
    setDone(true);
    setTimeout(() => setDone(false), 1500);
  };
  return html`<button type="button" class="quiet" onClick=${copy}>${isDone ? "Copied" : label}</button>`;
}

function Raw({ item, turn }) {
  return html`<div class="raw">
    ${turn && html`<h4>Request</h4><pre tabindex="0">${JSON.stringify(turn.body, null, 2)}</pre>
      <${Copy} text=${curl("v1/responses", turn.body)} label="Copy as curl" /><h4>Response</h4>`}
    <pre tabindex="0">${JSON.stringify(turn ? { id: turn.id, status: turn.status, usage: turn.usage, output: turn.items } : item, null, 2)}</pre></div>`;
}

/** How many tokens of a turn came how fast. What comes all at once has no speed. */
export function Speed({ turn, tokens }) {
  if (!turn?.firstAt || !tokens) return null;
  const milliseconds = turn.lastAt - turn.firstAt;
  const rate = milliseconds > 20 && tokens > 1 ? ` ${((tokens - 1) * 1000 / milliseconds).toFixed(1)} a second,` : "";
  return html`<span data-stat="speed">${tokens} token${tokens > 1 ? "s" : ""},${rate} the first after ${Math.round(turn.firstAt - turn.began)} ms</span>`;
}

export function Thought({ item }) {
  const parts = [...(item.content ?? []), ...(item.summary ?? [])].map(part => part.text ?? "").join("\n");
  const text = parts || item.thought || "";
  return text && html`<details class="thought"><summary>Thoughts</summary><p dir="auto">${text}</p></details>`;
}

function Call({ item, isLast, onResult }) {
  const [output, setOutput] = useState("");
  const send = event => {
    event.preventDefault();
    onResult(item, output);
  };
  return html`<article class="note"><h3>The model calls ${item.name}</h3><pre tabindex="0">${item.arguments}</pre>
    ${isLast && onResult && html`<form onSubmit=${send}><label>Its result
      <textarea rows="2" value=${output} onInput=${e => setOutput(e.target.value)} /></label><button>Send the result</button></form>`}</article>`;
}

const Result = ({ item }) => html`<article class="note"><h3>Result</h3>
  <pre tabindex="0">${typeof item.output === "string" ? item.output : JSON.stringify(item.output)}</pre></article>`;
