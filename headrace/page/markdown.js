// An answer's Markdown as HTML that can do nothing: no scripts, no forms, no requests to any host.
import { Marked } from "marked";

const TAGS = "a b blockquote br code del em h1 h2 h3 h4 h5 h6 hr i li ol p pre s strong sub sup table tbody td th thead tr ul";
const ALLOWED = { ALLOWED_TAGS: TAGS.split(" "), ALLOWED_ATTR: ["href", "start", "align"], ALLOW_DATA_ATTR: false };

DOMPurify.addHook("afterSanitizeAttributes", node => {
  if (node.tagName !== "A") return;
  node.setAttribute("target", "_blank");
  node.setAttribute("rel", "noopener noreferrer");
});

// HTML in an answer is shown as it was written; an image is a link to it, and a task's box is a sign.
const marked = new Marked({ gfm: true, breaks: true, renderer: { html: ({ text }) => escaped(text), checkbox: ({ checked }) => (checked ? "☑ " : "☐ "), image: ({ href, text }) =>
  `<a href="${escaped(href)}">${escaped(text || href)}</a>` } });
const escaped = text => text.replace(/[&<>"']/g, sign => `&#${sign.charCodeAt(0)};`);

export const rendered = text => DOMPurify.sanitize(marked.parse(text), ALLOWED);
