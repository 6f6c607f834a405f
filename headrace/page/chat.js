// The chat: the branch that is shown, the turn that runs, and what a person does with them.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { html } from "./html.js";
import { getJson, persistently, postJson } from "./api.js";
import { addItems, createBranch, forkBranch, loadBranch, packSettings, saveMetadata, titleFrom, unpackSettings } from "./chats.js";
import { Composer } from "./composer.js";
import { Message } from "./message.js";
import { canSee } from "./models.js";
import { DEFAULTS, Settings } from "./settings.js";
import { grow, newest, pathOf, questionOf } from "./tree.js";
import { bodyOf, newTurn, resumeTurn, sendTurn, speedOf } from "./turn.js";

const userItem = (text, images = []) => ({
  role: "user",
  content: [...images, ...(text ? [{ type: "input_text", text }] : [])],
});

export function Chat({ chat, model, info, isDrawerOpen, onDrawer, onCreated, onChanged }) {
  const [branches, setBranches] = useState([]);
  const [shown, setShown] = useState(null); // the id of the branch that is shown
  const [settings, setSettings] = useState(DEFAULTS);
  const [turn, setTurn] = useState(null);
  const [error, setError] = useState("");
  const turns = useRef(new Map()); // the turns of this visit, by the id of their answer
  const alive = useRef(true);
  useEffect(() => () => { alive.current = false; }, []);
  useEffect(() => { open().catch(problem => setError(problem.message)); }, []);

  const root = useMemo(() => grow(branches), [branches]);
  const branch = branches.find(one => one.id === shown);
  const path = pathOf(root, branch);
  const isBusy = turn !== null;

  async function open() {
    if (!chat) return;
    const loaded = await Promise.all(chat.branches.map(loadBranch));
    const latest = newest({ branches: loaded.reverse() }); // they are listed newest first
    setBranches(loaded);
    setShown(latest.id);
    setSettings({ ...DEFAULTS, ...unpackSettings(latest.metadata) });
    const running = loaded.find(one => one.metadata.running);
    if (running) {
      setShown(running.id);
      const sent = await getJson(`v1/responses/${running.metadata.running}/input_items?order=desc`).catch(() => ({ data: [] }));
      const known = new Set(running.items.map(item => item.id));
      const resumed = newTurn({ input: sent.data.filter(item => !known.has(item.id)).reverse() });
      await follow(running, resumed, resumeTurn(resumed, running.metadata.running));
    }
  }

  /** Show the events of a turn until it ends; then show what was stored. */
  async function follow(on, running, steps) {
    let named = on.metadata.running;
    let isNamed; // a promise
    let frame = 0;
    setTurn({ ...running });
    try {
      for await (const _ of steps) {
        if (running.id && named !== running.id) {
          named = running.id;
          const changes = { ...packSettings(settings), running: named, used: String(Date.now()) };
          isNamed = saveMetadata(on, changes).catch(() => {}); // only needed after a reload
        }
        if (!alive.current) return;
        frame ||= requestAnimationFrame(() => { frame = 0; setTurn({ ...running }); });
      }
      if (running.status === "failed") setError(running.error?.message ?? "The answer failed.");
      if (running.status === "cancelled") await keepStopped(on, running);
    } catch (problem) {
      setError(problem.message);
    } finally {
      cancelAnimationFrame(frame);
      await isNamed;
      if (alive.current) await settle(on, running);
    }
  }

  async function settle(on, running) {
    try {
      const loaded = await persistently(async () => loadBranch(await saveMetadata(on, { running: null })));
      for (const item of running.items) turns.current.set(item.id, running);
      setBranches(known => [...known.filter(one => one.id !== on.id), loaded]);
    } catch (problem) {
      setError(problem.message);
    }
    setTurn(null);
    onChanged();
  }

  /** The store keeps nothing of a cancelled response in a conversation; a person wants what was written so far. */
  async function keepStopped(on, running) {
    const text = running.items.flatMap(item => item.content ?? []).map(part => part.text ?? "").join("");
    if (!text || !running.body.input.length) return;
    const answer = { type: "message", role: "assistant", status: "incomplete", content: [{ type: "output_text", text, annotations: [] }] };
    await addItems(on, [...running.body.input, answer]);
  }

  async function run(on, input) {
    setError("");
    const hasLogprobs = settings.logprobs && !withoutLogprobs.has(model);
    let running;
    try {
      running = newTurn(bodyOf({ model, input, branch: on, settings, hasLogprobs }));
    } catch (problem) {
      return setError(problem.message);
    }
    setBranches(known => [...known.filter(one => one.id !== on.id), { items: [], ...on }]);
    setShown(on.id);
    await follow(on, running, sendTurn(running));
    if (running.hasNoLogprobs) withoutLogprobs.add(model);
  }

  const metadataOf = () => ({ chat: chat?.id ?? crypto.randomUUID(), title: chat?.title ?? "", ...packSettings(settings) });

  async function send(text, images) {
    try {
      if (branch) return await run(branch, [userItem(text, images)]);
      const metadata = { ...metadataOf(), title: titleFrom(text) };
      const created = { ...(await createBranch(metadata)), items: [] };
      onCreated(metadata.chat);
      await run(created, [userItem(text, images)]);
    } catch (problem) {
      setError(problem.message);
    }
  }

  /** Ask again from a question's place in the tree, as a branch of its own. */
  async function branchFrom(question, input) {
    try {
      const fork = await forkBranch(branch, question.parent.item, metadataOf());
      const items = pathOf(root, branch).map(node => node.item);
      await run({ ...fork, items: items.slice(0, items.indexOf(question.item)) }, input);
    } catch (problem) {
      setError(problem.message);
    }
  }

  const edit = (node, text, images) => branchFrom(node, [userItem(text, images)]);
  const regenerate = node => {
    const question = questionOf(node);
    const { role, content } = question.item;
    return branchFrom(question, [{ role, content }]);
  };
  const switchTo = node => setShown(newest(node).id);
  const answerCall = (call, output) => run(branch, [{ type: "function_call_output", call_id: call.call_id, output }]);
  const stop = () => turn?.id && postJson(`v1/responses/${turn.id}/cancel`, {}).catch(problem => setError(problem.message));
  useEffect(() => {
    const keys = event => event.key === "Escape" && turn && stop();
    addEventListener("keydown", keys);
    return () => removeEventListener("keydown", keys);
  }, [turn?.id]);

  const last = path.at(-1)?.item;
  const actions = { isBusy, model, onEdit: edit, onRegenerate: regenerate, onSwitch: switchTo };
  // in one list, so that an item that is stored now stays the same element: what a person has opened stays open
  const messages = [
    ...path.map(node => html`<${Message} key=${node.item.id} item=${node.item} node=${node} turn=${turns.current.get(node.item.id)}
      isLast=${node.item === last && !turn} onResult=${answerCall} ...${actions} />`),
    ...(turn?.body.input ?? []).map((item, index) => html`<${Message} key=${`sent ${index}`} item=${item} />`),
    ...(turn?.items ?? []).filter(Boolean).map(item => html`<${Message} key=${item.id} item=${item} />`),
  ];
  return html`
    <div class="chat">
      <${Scroller} watch=${[path.length, turn]}>
        ${!branch && !turn && html`<${Welcome} onPick=${text => send(text, [])} />`}
        ${messages}
        ${turn && !turn.firstAt && html`<p class="waiting" role="status">The model reads…</p>`}
        ${turn?.isAway && html`<p class="waiting" role="status">The connection is lost. The answer goes on, and is shown when it is back.</p>`}
        ${error && html`<p class="error" role="alert">${error}
          <button type="button" class="quiet" onClick=${() => setError("")}>Dismiss</button></p>`}
      </${Scroller}>
      <${Meter} turn=${turn ?? turns.current.get(last?.id)} contextLength=${info?.max_model_len} />
      <${Composer} isBusy=${isBusy} canSee=${canSee(info)} onSend=${send} onStop=${stop} />
    </div>
    ${isDrawerOpen && html`<${Settings} settings=${settings} onChange=${setSettings} onClose=${onDrawer} />`}`;
}

const withoutLogprobs = new Set(); // models that were found to give no log probabilities

const EXAMPLES = ["What color is the sky?", "Write a haiku about water.", "Explain what a headrace is."];

const Welcome = ({ onPick }) => html`<section class="welcome"><h2>What do you want to know?</h2>
  <p>Chats are stored on your server, and nowhere else.</p>
  <ul>${EXAMPLES.map(text => html`<li><button type="button" class="quiet" onClick=${() => onPick(text)}>${text}</button></li>`)}</ul></section>`;

/** Follows the end while a person has not scrolled away from it. */
function Scroller({ watch, children }) {
  const box = useRef(null);
  const follows = useRef(true);
  const onScroll = () => {
    const { scrollHeight, scrollTop, clientHeight } = box.current;
    follows.current = scrollHeight - scrollTop - clientHeight < 60;
  };
  useEffect(() => { if (follows.current) box.current.scrollTop = box.current.scrollHeight; }, watch);
  return html`<div class="messages" role="log" aria-label="Conversation" tabindex="0" ref=${box} onScroll=${onScroll}>${children}</div>`;
}

function Meter({ turn, contextLength }) {
  const speed = speedOf(turn);
  const used = turn?.usage?.total_tokens;
  const cached = turn?.usage?.input_tokens_details?.cached_tokens;
  return html`<p class="meter" role="status">
    ${speed && html`<span data-stat="speed">${speed.tokens} tokens, ${speed.rate.toFixed(1)} a second, the first after ${speed.wait} ms</span>`}
    ${used && contextLength && html`<span><meter min="0" max=${contextLength} value=${used} aria-label="Context used" />
      ${used} of ${contextLength} tokens${cached ? `, ${cached} of the question from the cache` : ""}</span>`}</p>`;
}
