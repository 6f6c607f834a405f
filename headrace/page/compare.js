// One question to two models, providers or settings, side by side. Nothing of it is stored.
import { useRef, useState } from "preact/hooks";
import { html } from "./html.js";
import { events, request } from "./api.js";
import { Composer } from "./composer.js";
import { Markdown, Speed, Thought } from "./message.js";
import { canSee, ModelPicker } from "./models.js";
import { Dose, NO_STEERING, steeringOf, takenSteering } from "./steer.js";

export function Compare({ models, model }) {
  const [sides, setSides] = useState(() => {
    const steering = takenSteering();
    const plain = { model, temperature: "", limit: "", steering: NO_STEERING };
    return [plain, steering ? { ...plain, steering } : { ...plain, temperature: "1" }];
  });
  const [answers, setAnswers] = useState([null, null]);
  const [question, setQuestion] = useState("");
  const stops = useRef([]);
  const sent = useRef(null); // the last question, and its images
  const isBusy = answers.some(answer => answer?.isRunning);

  const change = (index, values) => setSides(sides.map((side, at) => (at === index ? { ...side, ...values } : side)));
  const show = (index, answer) => setAnswers(known => known.map((one, at) => (at === index ? { ...answer } : one)));

  async function ask(index, text, images) {
    const { model, temperature, limit, steering } = sides[index];
    const content = [...images.map(one => ({ type: "image_url", image_url: { url: one.image_url } })), { type: "text", text }];
    const body = { model, messages: [{ role: "user", content: images.length ? content : text }], stream: true, stream_options: { include_usage: true } };
    if (temperature !== "") body.temperature = Number(temperature);
    if (limit !== "") body.max_tokens = Number(limit);
    body.steering = steeringOf(steering);
    if (sides.some(side => steeringOf(side.steering))) body.seed = 1; // then only the dose makes a difference
    const answer = { text: "", thought: "", isRunning: true, began: performance.now() };
    stops.current[index] = new AbortController();
    show(index, answer);
    try {
      const response = await request("POST", "v1/chat/completions", body, { signal: stops.current[index].signal });
      for await (const chunk of events(response)) {
        if (chunk.error) throw new Error(chunk.error.message);
        const choice = chunk.choices?.[0];
        const { content, refusal, reasoning_content: thought } = choice?.delta ?? {};
        if (content || thought) answer.firstAt ??= performance.now();
        answer.text += content ?? refusal ?? "";
        answer.thought += thought ?? "";
        Object.assign(answer, { usage: chunk.usage ?? answer.usage, ending: choice?.finish_reason ?? answer.ending, lastAt: performance.now() });
        show(index, answer);
      }
    } catch (problem) {
      answer.error = problem.name === "AbortError" ? "" : problem.message;
    }
    show(index, { ...answer, isRunning: false });
  }

  const send = (text, images) => {
    setQuestion(text);
    sent.current = [text, images];
    sides.forEach((_, index) => ask(index, text, images));
  };
  return html`
    <div class="chat">
      <div class="messages" tabindex="0" role="log" aria-label="Comparison">
        ${question && html`<article class="message user"><p dir="auto">${question}</p></article>`}
        <div class="sides">${sides.map((side, index) => html`
          <section class="side" aria-label=${`Answer ${index + 1}`}>
            <div class="actions"><${ModelPicker} models=${models} value=${side.model} label=${`Model ${index + 1}`} onPick=${id => change(index, { model: id })} />
              <label class="inline">Temperature<input type="number" min="0" max="2" step="0.1" placeholder="auto" value=${side.temperature}
                onInput=${event => change(index, { temperature: event.target.value })} /></label>
              <label class="inline">Tokens<input type="number" min="1" placeholder="auto" value=${side.limit} aria-label=${`Longest answer ${index + 1}`}
                onInput=${event => change(index, { limit: event.target.value })} /></label></div>
            <${Dose} label=${`Steering ${index + 1}`} model=${side.model} value=${side.steering} onChange=${steering => change(index, { steering })}
              onDone=${() => question && !isBusy && sent.current && ask(index, ...sent.current)} />
            <${Side} answer=${answers[index]} />
          </section>`)}</div>
      </div>
      <${Composer} isBusy=${isBusy} canSee=${sides.some(side => canSee(models.find(one => one.id === side.model)))} onSend=${send} onStop=${() => stops.current.forEach(stop => stop.abort())} />
    </div>`;
}

function Side({ answer }) {
  if (!answer) return html`<p class="hint">The answer will be here.</p>`;
  return html`<${Thought} item=${answer} /><${Markdown} text=${answer.text} />
    ${answer.ending === "length" && html`<p class="cut">This answer was cut: it reached its limit.</p>`}
    ${answer.error && html`<p class="error" role="alert">${answer.error}</p>`}
    ${!answer.isRunning && html`<p class="meter"><${Speed} turn=${answer} tokens=${answer.usage?.completion_tokens} /></p>`}`;
}
