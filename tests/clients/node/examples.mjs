// The JavaScript examples of docs/clients/.
import assert from "node:assert/strict";
import { readdir, readFile, writeFile } from "node:fs/promises";

const PAGES = new URL("../../../docs/clients/", import.meta.url);
const DOCUMENTED_URL = "http://127.0.0.1:8000";

// Run those on the client's page with the packages that are in `folder`/node_modules.
export async function runExamples(client, folder) {
  const names = (await readdir(PAGES)).filter((name) => name.endsWith(".md"));
  const pages = await Promise.all(names.map((name) => readFile(new URL(name, PAGES), "utf8")));
  const page = pages.find((text) => text.match(/^<!-- run by (.*) -->$/m)?.[1].split(" ").includes(client));
  const found = [...page.matchAll(/^```js\n(.*?)^```$/gms)];
  assert.ok(found.length);
  for (const [index, [, code]] of found.entries()) {
    // A file in there finds the packages, and git ignores it.
    const file = new URL(`node_modules/.example${index}.mjs`, folder);
    await writeFile(file, code.replaceAll(DOCUMENTED_URL, process.env.HEADRACE_URL));
    await import(file);
  }
}
