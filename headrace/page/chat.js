// The chat: the branch that is shown, the turn that runs, and what a person does with them.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { html } from "./html.js";
import { getJson, persistently, postJson, request } from "./api.js";
import { addItems, createBranch, forkBranch, loadBranch, packSettings, saveMetadata, titleFrom, unpackSettings } from "./chats.js";
import { Composer } from "./composer.js";
import { Message, Speed } from "./message.js";
import { canSee } from "./models.js";
import { DEFAULTS, Settings } from "./settings.js";
import { grow, newest, pathOf, questionOf, textOf } from "./tree.js";
import { bodyOf, newTurn, resumeTurn, sendTurn } from "./turn.js";

const userItem = (text, images = []) => ({
  role: "user",
  content: [...images, ...(text ? [{ type: "input_text", text }] : [])],
});

export function Chat({ chat, model, info, isDrawerOpen, onDrawer, onCreated, onChanged }) {
  const [branches, setBranches] = useState([]);
  const [shown, setShown] = useState(null); // the id of the branch that is shown
  const [settings, setSettings] = useState(DEFAULTS);
  const [turn, setTurn] = useState(null);
  const [pending, setPending] = useState(null); // what is sent once its branch is made
  const [error, setError] = useState("");
  const [returned, setReturned] = useState(null); // a question that the server did not keep, for the composer
  const edits = useRef(new Map()); // edited questions that were not kept, by the id of the question they replace
  const turns = useRef(new Map()); // the turns of this visit, by the id of their answer
  const alive = useRef(true);
  useEffect(() => () => { alive.current = false; }, []);
  useEffect(() => { open().catch(problem => setError(problem.message)); }, []);

  const root = useMemo(() => grow(branches), [branches]);
  const branch = branches.find(one => one.id === shown);
  const path = useMemo(() => pathOf(root, branch), [root, branch]);
  const isBusy = turn !== null || pending !== null;

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
      if (!(await follow(running, resumed, resumeTurn(resumed, running.metadata.running)))) giveBack(resumed.body.input);
    }
  }

  /** Let a question that was not kept be sent again. */
  const giveBack = ([question]) =>
    question?.role === "user" && setReturned({ text: textOf(question), images: question.content.filter(part => part.type === "input_image") });

  /** Show the events of a turn until it ends; then show what was stored. Returns whether the question was. */
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
        if (!alive.current) return true;
        frame ||= requestAnimationFrame(() => { frame = 0; setTurn({ ...running }); });
      }
      if (running.status === "failed") setError(running.error?.message ?? "The answer failed.");
      if (running.status === "failed" || running.status === "cancelled") await keepPartial(on, running);
    } catch (problem) {
      setError(problem.message);
    } finally {
      cancelAnimationFrame(frame);
      await isNamed;
    }
    return !alive.current || settle(on, running);
  }

  async function settle(on, running) {
    let isKept = true; // as far as we know
    try {
      const loaded = await persistently(async () => loadBranch(await saveMetadata(on, { running: null })));
      for (const item of running.items) turns.current.set(item.id, running);
      setBranches(known => [...known.filter(one => one.id !== on.id), loaded]);
      isKept = loaded.items.length > (on.items?.length ?? 0);
    } catch (problem) {
      isKept = running.id !== null && problem.status !== 404; // never taken, or deleted elsewhere
      setError(problem.message);
    }
    setTurn(null);
    onChanged();
    return isKept;
  }

  /** The store keeps nothing of a failed or cancelled response in a conversation; a person wants what was written so far. */
  async function keepPartial(on, running) {
    const text = running.items.flatMap(item => item.content ?? []).map(part => part.text ?? "").join("");
    if (!text || !running.body.input.length) return;
    const answer = { type: "message", role: "assistant", status: "incomplete", content: [{ type: "output_text", text, annotations: [] }] };
    await addItems(on, [...running.body.input, answer]);
  }

  /** Returns whether the question was kept. */
  async function run(on, input) {
    setError("");
    const hasLogprobs = settings.logprobs && !withoutLogprobs.has(model);
    let running;
    try {
      running = newTurn(bodyOf({ model, input, branch: on, settings, hasLogprobs }));
    } catch (problem) {
      setError(problem.message);
      return false;
    }
    setBranches(known => [...known.filter(one => one.id !== on.id), { items: [], ...on }]);
    setShown(on.id);
    setPending(null);
    const isKept = await follow(on, running, sendTurn(running));
    if (running.hasNoLogprobs) withoutLogprobs.add(model);
    return isKept;
  }

  const metadataOf = () => ({ chat: chat?.id ?? crypto.randomUUID(), title: chat?.title ?? "", ...packSettings(settings) });

  async function begin(text) {
    const metadata = { ...metadataOf(), title: titleFrom(text) };
    const created = { ...(await createBranch(metadata)), items: [] };
    onCreated(metadata.chat);
    return created;
  }

  async function send(text, images) {
    const input = [userItem(text, images)];
    setPending(input);
    try {
      if (await run(branch ?? (await begin(text)), input)) return;
    } catch (problem) {
      setError(problem.message);
    }
    setPending(null);
    giveBack(input);
  }

  /** Ask again from a question's place in the tree, as a branch of its own, which goes when nothing of it is kept. */
  async function branchFrom(question, input) {
    setPending([]);
    try {
      const fork = await forkBranch(branch, question.parent.item, metadataOf());
      const items = pathOf(root, branch).map(node => node.item);
      if (await run({ ...fork, items: items.slice(0, items.indexOf(question.item)) }, input)) return true;
      setBranches(known => known.filter(one => one.id !== fork.id));
      setShown(branch.id);
      await request("DELETE", `v1/conversations/${fork.id}`);
    } catch (problem) {
      setError(problem.message);
    }
    setPending(null);
    return false;
  }

  async function edit(node, text, images) {
    edits.current.set(node.item.id, text);
    if (await branchFrom(node, [userItem(text, images)])) edits.current.delete(node.item.id);
  }
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
  // the same elements while an answer comes: a chat of a thousand messages is not compared anew for each of its words
  const stored = useMemo(() => path.map(node => html`<${Message} key=${node.item.id} item=${node.item} node=${node}
      turn=${turns.current.get(node.item.id)} isLast=${node.item === last && !turn} onResult=${answerCall}
      unsent=${edits.current.get(node.item.id)} ...${actions} />`), [path, isBusy, model, settings, chat]);
  // in one list, so that an item that is stored now stays the same element: what a person has opened stays open
  const messages = [
    ...stored,
    ...(turn?.body.input ?? pending ?? []).map((item, index) => html`<${Message} key=${`sent ${index}`} item=${item} />`),
    ...(turn?.items ?? []).filter(Boolean).map(item => html`<${Message} key=${item.id} item=${item} />`),
  ];
  return html`
    <div class="chat">
      <${Scroller} isBusy=${isBusy} watch=${[path.length, turn, error]}>
        ${!branch && !isBusy && html`<${Welcome} onPick=${text => send(text, [])} />`}
        ${messages}
        ${isBusy && !turn?.firstAt && html`<p class="waiting" role="status">The model reads…</p>`}
        ${turn?.isAway && html`<p class="waiting" role="status">The connection is lost. The answer goes on, and is shown when it is back.</p>`}
        ${error && html`<p class="error" role="alert">${error}
          <button type="button" class="quiet" onClick=${() => setError("")}>Dismiss</button></p>`}
      </${Scroller}>
      <${Meter} turn=${turn ?? turns.current.get(last?.id)} contextLength=${info?.max_model_len} />
      <${Composer} isBusy=${isBusy} returned=${returned} canSee=${canSee(info)} onSend=${send} onStop=${stop} />
    </div>
    ${isDrawerOpen && html`<${Settings} settings=${settings} onChange=${setSettings} onClose=${onDrawer} />`}`;
}

const withoutLogprobs = new Set(); // models that were found to give no log probabilities

const EXAMPLES = ["What color is the sky?", "Write a haiku about water.", "Explain what a headrace is."];

const Welcome = ({ onPick }) => html`<section class="welcome"><h2>What do you want to know?</h2>
  <p>Chats are stored on your server, and nowhere else.</p>
  <ul>${EXAMPLES.map(text => html`<li><button type="button" class="quiet" onClick=${() => onPick(text)}>${text}</button></li>`)}</ul></section>`;

/** Follows the end while a person has not scrolled away from it, and from the moment a question is sent. */
function Scroller({ isBusy, watch, children }) {
  const box = useRef(null);
  const follows = useRef(true);
  const onScroll = () => {
    const { scrollHeight, scrollTop, clientHeight } = box.current;
    follows.current = scrollHeight - scrollTop - clientHeight < 60;
  };
  useEffect(() => { follows.current ||= isBusy; }, [isBusy]);
  useEffect(() => { if (follows.current) box.current.scrollTop = box.current.scrollHeight; }, watch);
  return html`<div class="messages" role="log" aria-label="Conversation" tabindex="0" ref=${box} onScroll=${onScroll}>${children}</div>`;
}

function Meter({ turn, contextLength }) {
  const used = turn?.usage?.total_tokens;
  const cached = turn?.usage?.input_tokens_details?.cached_tokens;
  return html`<p class="meter" role="status">
    <${Speed} turn=${turn} tokens=${turn?.usage?.output_tokens} />
    ${used && contextLength && html`<span><meter min="0" max=${contextLength} value=${used} aria-label="Context used" />
      ${used} of ${contextLength} tokens${cached ? `, ${cached} of the question from the cache` : ""}</span>`}</p>`;
}
