// The page: its views, who may use it, and the keys that move between them.
import { render } from "preact";
import { useEffect, useState } from "preact/hooks";
import { html } from "./html.js";
import { getJson, getKey, setKey } from "./api.js";
import { Chat } from "./chat.js";
import { listChats } from "./chats.js";
import { Compare } from "./compare.js";
import { ModelPicker } from "./models.js";
import { Server } from "./server.js";
import { Sidebar } from "./sidebar.js";

const VIEWS = { chat: "Chat", compare: "Compare", server: "Server" };

function useHash() {
  const [hash, setHash] = useState(location.hash);
  useEffect(() => {
    const changed = () => setHash(location.hash);
    addEventListener("hashchange", changed);
    return () => removeEventListener("hashchange", changed);
  }, []);
  const [, view = "chat", id = ""] = hash.split("/");
  return { view: view in VIEWS ? view : "chat", id };
}

function App() {
  const { view, id } = useHash();
  const [models, setModels] = useState(null);
  const [model, setModel] = useState("");
  const [chats, setChats] = useState(null);
  const [opened, setOpened] = useState({ chat: null, visit: 0 }); // a new visit is a new Chat
  const [locked, setLocked] = useState("");
  const [problem, setProblem] = useState("");
  const [open, setOpen] = useState({ sidebar: false, drawer: false });

  const fail = error => setProblem(error.message);
  const refresh = () => listChats().then(setChats).catch(fail);
  async function load() {
    const data = (await getJson("v1/models")).data.filter(one => (one.kind ?? "generative") === "generative");
    setModels(data);
    const last = localStorage.getItem("model");
    setModel(data.some(one => one.id === last) ? last : data[0]?.id ?? "");
    await refresh();
    setLocked("");
  }
  useEffect(() => {
    const need = event => setLocked(event.detail || "This server needs a key.");
    addEventListener("headrace-key", need);
    load().catch(fail);
    return () => removeEventListener("headrace-key", need);
  }, []);
  useEffect(() => {
    if (view !== "chat" || chats === null || opened.chat?.id === id) return;
    const chat = id ? chats.find(one => one.id === id) ?? null : null;
    if (chat?.id !== opened.chat?.id) setOpened({ chat, visit: opened.visit + 1 });
  }, [view, id, chats]);
  useEffect(() => {
    const keys = event => {
      if (event.key === "Escape") setOpen({ sidebar: false, drawer: false });
      if (!event.ctrlKey && !event.metaKey) return;
      if (event.key === "k") { event.preventDefault(); setOpen({ ...open, sidebar: true }); document.getElementById("search")?.focus(); }
      if (event.key === "O" && event.shiftKey) { event.preventDefault(); begin(); }
    };
    addEventListener("keydown", keys);
    return () => removeEventListener("keydown", keys);
  });

  const begin = () => { location.hash = "#/chat"; setOpened({ chat: null, visit: opened.visit + 1 }); setOpen({ ...open, sidebar: false }); };
  const created = chat => {
    opened.chat = { id: chat, title: "", branches: [] }; // the same visit: the chat that is open has a name now
    history.replaceState(null, "", `#/chat/${chat}`);
    dispatchEvent(new HashChangeEvent("hashchange"));
    refresh();
  };
  const pick = name => { setModel(name); localStorage.setItem("model", name); };
  const changed = async () => {
    await refresh();
    if (id && !(await listChats()).some(one => one.id === id)) begin();
  };
  const enter = async key => { setKey(key); setProblem(""); await load().catch(fail); };

  const lock = locked && html`<${Lock} reason=${locked} onEnter=${enter} />`;
  if (models === null || chats === null)
    return lock || html`<main class="lock">${problem ? html`<p class="error" role="alert">${problem}</p>` : html`<p role="status">Loading…</p>`}</main>`;
  const known = chats.find(one => one.id === opened.chat?.id) ?? opened.chat;
  // a locked page is hidden, and not gone: what somebody has written there stays
  return html`${lock}<div class="page" hidden=${locked !== ""}>
    <header class="bar">
      ${view === "chat" && html`<button type="button" class="quiet only-narrow" aria-label="Chats" aria-expanded=${open.sidebar} onClick=${() => setOpen({ ...open, sidebar: !open.sidebar })}>☰</button>`}
      <h1>Headrace</h1>
      <nav aria-label="Views">${Object.entries(VIEWS).map(([name, title]) => html`
        <a href=${name === "chat" ? `#/chat/${opened.chat?.id ?? ""}` : `#/${name}`} aria-current=${view === name ? "page" : null}>${title}</a>`)}</nav>
      ${view === "chat" && html`<${ModelPicker} models=${models} value=${model} onPick=${pick} />
        <button type="button" class="quiet" aria-expanded=${open.drawer} onClick=${() => setOpen({ ...open, drawer: !open.drawer })}>Settings</button>`}
    </header>
    ${problem && html`<p class="error" role="alert">${problem} <button type="button" class="quiet" onClick=${() => setProblem("")}>Dismiss</button></p>`}
    <main class=${`view-${view}`}>
      ${view === "chat" && html`
        <${Sidebar} chats=${chats} current=${id} isOpen=${open.sidebar} onNew=${begin} onChanged=${changed} onError=${fail}
          onPick=${() => setOpen({ ...open, sidebar: false })} />
        ${open.sidebar && html`<div class="backdrop" onClick=${() => setOpen({ ...open, sidebar: false })} />`}
        ${open.drawer && html`<div class="backdrop" onClick=${() => setOpen({ ...open, drawer: false })} />`}
        <${Chat} key=${opened.visit} chat=${known} model=${model} info=${models.find(one => one.id === model)}
          isDrawerOpen=${open.drawer} onDrawer=${() => setOpen({ ...open, drawer: false })} onCreated=${created} onChanged=${refresh} />`}
      ${view === "compare" && html`<${Compare} models=${models} model=${model} />`}
      ${view === "server" && html`<${Server} />`}
    </main></div>`;
}

function Lock({ reason, onEnter }) {
  const [key, set] = useState("");
  const enter = event => { event.preventDefault(); onEnter(key.trim()); };
  return html`<main class="lock"><form onSubmit=${enter}>
    <h1>Headrace</h1>
    <p>${getKey() ? html`<span class="error" role="alert">${reason}</span>` : "This server answers only with a key."}</p>
    <label>Key<input type="password" autocomplete="off" value=${key} onInput=${event => set(event.target.value)} /></label>
    <button>Enter</button>
    <p class="hint">The key is kept until this tab is closed.</p></form></main>`;
}

render(html`<${App} />`, document.getElementById("app"));
