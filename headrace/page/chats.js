// Chats as the server stores them: conversations whose metadata names the chat they belong to.

import { all, getJson, postJson, request } from "./api.js";

const PIECE = 512; // characters of one value of metadata
const PIECES = 8;
const MAX_SEARCH = 200; // characters that the server searches for

/** The chats of this caller, the newest first: [{id, title, branches: [conversation]}]. */
export async function listChats() {
  const chats = new Map();
  for (const conversation of await all("v1/conversations", 2000)) {
    const id = conversation.metadata.chat ?? conversation.id;
    if (!chats.has(id)) chats.set(id, { id, title: titleOf(conversation), branches: [] });
    chats.get(id).branches.push(conversation);
  }
  return [...chats.values()];
}

/** The ids of the chats of which a branch has these words, in its title or in what was said. */
export async function searchChats(words) {
  const found = await all(`v1/conversations?search=${encodeURIComponent(words.slice(0, MAX_SEARCH))}`, 1000);
  return new Set(found.map(conversation => conversation.metadata.chat ?? conversation.id));
}

const titleOf = conversation => conversation.metadata.title || "Untitled";

/** A branch with its items, oldest first. */
export async function loadBranch(conversation) {
  return { ...conversation, items: await all(`v1/conversations/${conversation.id}/items?order=asc`, 5000) };
}

/** Metadata without what is null. */
const known = metadata => Object.fromEntries(Object.entries(metadata).filter(([, value]) => value !== null));

export const createBranch = metadata => postJson("v1/conversations", { metadata: known(metadata) });

/** A new branch that shares the items up to `item` (null: none). */
export const forkBranch = (branch, item, metadata) =>
  postJson(`v1/conversations/${branch.id}/fork`, { item_id: item?.id ?? null, metadata: known(metadata) });

/** Change some of a branch's metadata, and return it; null removes a member. Another tab may have changed the others. */
export async function saveMetadata(branch, changes) {
  const { metadata } = await getJson(`v1/conversations/${branch.id}`);
  return postJson(`v1/conversations/${branch.id}`, { metadata: known({ ...metadata, ...changes }) });
}

export const addItems = (branch, items) => postJson(`v1/conversations/${branch.id}/items`, { items });

export async function renameChat(chat, title) {
  for (const branch of chat.branches) await saveMetadata(branch, { title });
}

export async function deleteChat(chat) {
  for (const branch of chat.branches) await request("DELETE", `v1/conversations/${branch.id}`);
}

/** Everything of a chat, as one document for each branch. */
export async function exportChat(chat) {
  const branches = chat.branches.map(branch => getJson(`v1/conversations/${branch.id}/export`));
  return { object: "headrace.chat", title: chat.title, branches: await Promise.all(branches) };
}

/** Settings as metadata: JSON in pieces, because a value is short, and null for those that are not needed. Longer ones are not kept. */
export function packSettings(settings) {
  const text = JSON.stringify(settings);
  const fitting = text.length > PIECE * PIECES ? "" : text;
  const piece = number => [`settings_${number}`, fitting.slice(number * PIECE, (number + 1) * PIECE) || null];
  return Object.fromEntries(Array.from({ length: PIECES }, (_, number) => piece(number)));
}

export function unpackSettings(metadata) {
  let text = "";
  for (let number = 0; metadata[`settings_${number}`]; number++) text += metadata[`settings_${number}`];
  try {
    return text ? JSON.parse(text) : null;
  } catch {
    return null;
  }
}

/** A title for a chat that begins with this text. */
export function titleFrom(text) {
  const line = text.trim().split("\n")[0] || "Image";
  return line.length > 60 ? `${line.slice(0, 57)}…` : line;
}
