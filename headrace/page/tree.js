// A chat is a family of conversations in the server's store, one for each branch. Branches share the items that
// they begin with, so a chat is a tree of items: an edited question or a second answer is a sibling.

/** @param branches [{id, created_at, items}]; returns the root, a node without an item. */
export function grow(branches) {
  const root = { item: null, parent: null, children: [], branches };
  for (const branch of branches) {
    let node = root;
    for (const item of branch.items) node = childOf(node, item, branch);
  }
  return root;
}

function childOf(parent, item, branch) {
  let child = parent.children.find(one => one.item.id === item.id);
  if (!child) {
    child = { item, parent, children: [], branches: [] };
    parent.children.push(child);
  }
  child.branches.push(branch);
  return child;
}

/** The nodes from the first item of a branch to its last. */
export function pathOf(root, branch) {
  const path = [];
  let node = root;
  for (const item of branch?.items ?? []) {
    node = node.children.find(one => one.item.id === item.id);
    path.push(node);
  }
  return path;
}

/** The branch that was used last, of those that pass a node. */
export const newest = node => node.branches.reduce((a, b) => (usedAt(b) >= usedAt(a) ? b : a));

const usedAt = branch => Number(branch.metadata.used ?? branch.created_at * 1000); // milliseconds

/** The last question at or above a node, or null. */
export function questionOf(node) {
  while (node?.item && node.item.role !== "user") node = node.parent;
  return node?.item ? node : null;
}

/** The text of an item's parts. */
export const textOf = item =>
  typeof item.content === "string"
    ? item.content
    : (item.content ?? []).map(part => part.text ?? part.refusal ?? "").join("");

/** The log probabilities of an answer's tokens, in order. */
export const tokensOf = item => (item.content ?? []).flatMap?.(part => part.logprobs ?? []) ?? [];

/** The messages of plain text up to a node, as chat completions have them. */
export function messagesTo(node, instructions) {
  const messages = [];
  for (let at = node; at?.item; at = at.parent)
    if (["user", "assistant", "system"].includes(at.item.role)) messages.unshift({ role: at.item.role, content: textOf(at.item) });
  return instructions ? [{ role: "system", content: instructions }, ...messages] : messages;
}
