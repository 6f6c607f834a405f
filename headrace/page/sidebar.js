// The list of chats: search, rename, export, delete.
import { useEffect, useState } from "preact/hooks";
import { html } from "./html.js";
import { deleteChat, exportChat, renameChat, searchChats } from "./chats.js";

const PAUSE_MS = 300; // after the last key, before what was said is searched

export function Sidebar({ chats, current, isOpen, onNew, onPick, onChanged, onError }) {
  const [words, setWords] = useState("");
  const [editing, setEditing] = useState(null);
  const [said, setSaid] = useState(new Set()); // chats in which the words were said
  const [isSearching, setSearching] = useState(false);
  const shown = chats.filter(chat => said.has(chat.id) || chat.title.toLowerCase().includes(words.toLowerCase()));
  useEffect(() => {
    let isWanted = true;
    setSaid(new Set());
    if (words.trim().length < 2) return setSearching(false);
    const timer = setTimeout(async () => {
      setSearching(true);
      const found = await searchChats(words).catch(problem => { onError(problem); return new Set(); });
      if (isWanted) { setSaid(found); setSearching(false); }
    }, PAUSE_MS);
    return () => { isWanted = false; clearTimeout(timer); };
  }, [words]);
  useEffect(() => {
    addEventListener("pointerdown", closeMenus);
    addEventListener("keydown", closeMenus);
    return () => { removeEventListener("pointerdown", closeMenus); removeEventListener("keydown", closeMenus); };
  }, []);
  const attempt = work => work().then(onChanged, onError);
  return html`
    <nav class=${`sidebar ${isOpen ? "open" : ""}`} aria-label="Chats">
      <button type="button" onClick=${onNew}>New chat</button>
      <input id="search" type="search" placeholder="Search (Ctrl K)" aria-label="Search chats" value=${words}
        onInput=${event => setWords(event.target.value)} />
      <ul>${shown.map(chat => html`
        <li key=${chat.id} class=${chat.id === current ? "current" : ""}>
          ${editing === chat.id
            ? html`<${Rename} chat=${chat} onDone=${title => { setEditing(null); if (title) attempt(() => renameChat(chat, title)); }} />`
            : html`<a href=${`#/chat/${chat.id}`} aria-current=${chat.id === current ? "page" : null} onClick=${onPick}>${chat.title}</a>
              <${Menu} chat=${chat} onRename=${() => setEditing(chat.id)} attempt=${attempt} onError=${onError} />`}
        </li>`)}</ul>
      ${shown.length === 0 && html`<p class="hint">${words ? isSearching ? "Searching…" : "No chat has these words." : "Your chats will be listed here."}</p>`}
    </nav>`;
}

/** Escape closes a menu, and so does a press elsewhere. */
function closeMenus(event) {
  for (const menu of document.querySelectorAll(".menu[open]"))
    if (event.key ? event.key === "Escape" : !menu.contains(event.target)) menu.removeAttribute("open");
}

function Rename({ chat, onDone }) {
  const [title, setTitle] = useState(chat.title);
  const keys = event => event.key === "Escape" && onDone(null);
  return html`<form onSubmit=${event => { event.preventDefault(); onDone(title.trim()); }}>
    <input aria-label="New title" value=${title} maxlength="200" onInput=${event => setTitle(event.target.value)} onKeyDown=${keys}
      onBlur=${() => onDone(title.trim() === chat.title ? null : title.trim())}
      ref=${input => input?.dataset.seen ?? (input && (input.dataset.seen = "yes", input.select()))} /></form>`;
}

function Menu({ chat, onRename, attempt, onError }) {
  const close = event => event.target.closest("details")?.removeAttribute("open");
  const remove = () => confirm(`Delete “${chat.title}”? This cannot be undone.`) && attempt(() => deleteChat(chat));
  return html`<details class="menu" onClick=${event => event.target.tagName === "BUTTON" && close(event)}>
    <summary aria-label=${`Actions for ${chat.title}`}>⋯</summary>
    <div><button type="button" class="quiet" onClick=${onRename}>Rename</button>
      <button type="button" class="quiet" onClick=${() => download(chat).catch(onError)}>Export</button>
      <button type="button" class="quiet" onClick=${remove}>Delete</button></div></details>`;
}

async function download(chat) {
  const text = JSON.stringify(await exportChat(chat), null, 2);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = `${chat.title.replaceAll(/[^\p{L}\p{N}]+/gu, "-").slice(0, 60) || "chat"}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
