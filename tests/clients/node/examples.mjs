// The JavaScript examples of docs/clients.md.
import assert from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";

const PAGE = new URL("../../../docs/clients.md", import.meta.url);
const DOCUMENTED_URL = "http://127.0.0.1:8000";

// Run those in the client's section with the packages that are in `folder`/node_modules.
export async function runExamples(client, folder) {
  const sections = (await readFile(PAGE, "utf8")).split(/^## /m);
  const section = sections.find((text) => text.match(/^<!-- run by (.*) -->$/m)?.[1].split(" ").includes(client));
  const found = [...section.matchAll(/^```js\n(.*?)^```$/gms)];
  assert.ok(found.length);
  for (const [index, [, code]] of found.entries()) {
    // A file in there finds the packages, and git ignores it.
    const file = new URL(`node_modules/.example${index}.mjs`, folder);
    await writeFile(file, code.replaceAll(DOCUMENTED_URL, process.env.HEADRACE_URL));
    await import(file);
  }
}
