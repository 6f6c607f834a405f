// An answer token by token: how probable each was, and what else the model considered.
import { useEffect, useRef, useState } from "preact/hooks";
import { html } from "./html.js";
import { Features } from "./steer.js";

const percent = logprob => `${(Math.exp(logprob) * 100).toFixed(Math.exp(logprob) > 0.1 ? 0 : 1)} %`;
const visible = token => token.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replaceAll(" ", "\u00b7") || "∅";
// Buttons break no lines: of a token with line breaks, the button has what comes before the last one.
const onButton = token => token.slice(0, token.lastIndexOf("\n") + 1 || undefined).replaceAll("\n", "⏎");
const below = token => {
  const lines = token.split("\n");
  return lines.length > 1 && html`${lines.slice(1).map(() => html`<br />`)}<span>${lines.at(-1)}</span>`;
};
const shade = logprob => `p${Math.min(4, Math.floor(Math.exp(logprob) * 5))}`;

/** What came before the answer's own tokens, which are always computed. */
function Before({ usage }) {
  const cached = usage.input_tokens_details?.cached_tokens ?? 0;
  return html`<p class="hint">Before it were ${usage.input_tokens} tokens, ${cached ? `the first ${cached} of them from the cache` : "none of them from the cache"}.</p>`;
}

export function Tokens({ tokens, usage, messages, model }) {
  const [chosen, choose] = useState(null);
  const token = tokens[chosen];
  const facts = useRef(null);
  useEffect(() => { if (token) facts.current.scrollIntoView({ block: "nearest" }); }, [token]);
  return html`${usage && html`<${Before} usage=${usage} />`}
    <div class="tokens" role="group" aria-label="The answer's tokens">
      ${tokens.map((one, index) => html`
        <button type="button" class=${`token ${shade(one.logprob)}`} aria-pressed=${index === chosen}
          title=${percent(one.logprob)} onClick=${() => choose(index === chosen ? null : index)}>${onButton(one.token)}</button>
        ${below(one.token)}`)}
    </div>
    <div class="token-facts" ref=${facts}>${token && html`<${Alternatives} token=${token} />`}
      ${token && messages && html`<${Features} tokens=${tokens} chosen=${chosen} messages=${messages} model=${model} />`}</div>`;
}

function Alternatives({ token }) {
  const others = token.top_logprobs ?? [];
  const all = others.some(one => one.token === token.token) ? others : [token, ...others];
  return html`
    <table class="alternatives">
      <caption>“${visible(token.token)}” had ${percent(token.logprob)}; the model considered:</caption>
      <tbody>${all.map(one => html`
        <tr class=${one.token === token.token ? "chosen" : ""}>
          <th scope="row"><code>${visible(one.token)}</code></th>
          <td><meter min="0" max="1" value=${Math.exp(one.logprob)} aria-label=${`${visible(one.token)} probability`} /></td>
          <td>${percent(one.logprob)}</td>
        </tr>`)}</tbody>
    </table>`;
}
