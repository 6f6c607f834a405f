// Where a question is written: Enter sends, Shift+Enter begins a line, images are attached.
import { useEffect, useRef, useState } from "preact/hooks";
import { html } from "./html.js";

/** `canSee`: whether images may be attached; `returned`: a question that was sent in vain, to be sent again. */
export function Composer({ isBusy, canSee, returned, onSend, onStop }) {
  const [text, setText] = useState("");
  const [images, setImages] = useState([]);
  const area = useRef(null);
  useEffect(() => {
    if (!returned) return;
    setText(newer => [returned.text, newer].filter(Boolean).join("\n"));
    setImages(newer => [...returned.images, ...newer]);
  }, [returned]);
  const send = event => {
    event?.preventDefault();
    if (isBusy || (!text.trim() && !images.length)) return;
    onSend(text, images);
    setText("");
    setImages([]);
    area.current.focus();
  };
  const keys = event => event.key === "Enter" && !event.shiftKey && !event.isComposing && send(event);
  const attach = async event => {
    const urls = await Promise.all([...event.target.files].map(dataUrl));
    setImages([...images, ...urls.map(url => ({ type: "input_image", image_url: url }))]);
    event.target.value = "";
  };
  return html`
    <form class="composer" onSubmit=${send}>
      ${images.length > 0 && html`<div class="attached">${images.map((image, index) => html`
        <button type="button" class="quiet" aria-label=${`Remove image ${index + 1}`} onClick=${() => setImages(images.filter(one => one !== image))}>
          <img src=${image.image_url} alt="" /> ✕</button>`)}</div>`}
      <textarea id="question" dir="auto" ref=${area} rows=${Math.min(8, 1 + text.split("\n").length)} aria-label="Question" placeholder="Ask something"
        value=${text} onInput=${event => setText(event.target.value)} onKeyDown=${keys} />
      <div class="actions">
        ${canSee && html`<label class="attach quiet">Image<input type="file" accept="image/*" multiple onChange=${attach} /></label>`}
        <span class="hint">Enter sends, Shift Enter begins a line</span>
        ${isBusy ? html`<button type="button" onClick=${onStop}>Stop</button>` : html`<button>Send</button>`}
      </div>
    </form>`;
}

const dataUrl = file =>
  new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
