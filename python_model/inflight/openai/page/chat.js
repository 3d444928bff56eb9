// The conversation: what was said, one answer under way at most.
import { post } from "./sse.js";

const at = (id) => document.getElementById(id);
// As it was typed: what the server does not take it says, by name.
const number = (id) => (at(id).value === "" ? undefined : Number(at(id).value));

export class Chat {
  constructor(key) {
    this.key = key;
    this.model = "";
    this.messages = [];
    this.answering = null; // its AbortController
    this.hint = at("empty");
    this.atEnd = true; // of the conversation, until the reader scrolls away
    at("log").addEventListener("scroll", () => {
      const log = at("log");
      this.atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 120;
    });
    new ResizeObserver(() => this.follow()).observe(at("log")); // options open and close below it
    at("ask").addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    at("text").addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.send();
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.stop();
    });
    at("stop").addEventListener("click", () => this.stop());
    at("clear").addEventListener("click", () => this.clear());
  }

  /** The model, as the server describes it. Its answers leave room for what is said next. */
  meet(card) {
    if (this.model !== card.id) at("max_tokens").value = Math.min(256, Math.floor(card.max_model_len / 4));
    this.model = card.id;
  }

  stop() {
    this.answering?.abort();
  }

  clear() {
    this.stop();
    this.messages = [];
    at("log").replaceChildren(this.hint);
    at("text").focus();
  }

  async send() {
    const text = at("text").value.trim();
    if (!text || this.answering) return;
    at("text").value = "";
    this.show("user", "You").text.textContent = text;
    const messages = this.messages; // a new chat has others
    messages.push({ role: "user", content: text });
    const place = this.show("model", this.model || "Model");
    const said = await this.answer(place, text);
    if (said) messages.push({ role: "assistant", content: said });
    else {
      messages.pop();
      if (messages === this.messages) at("text").value ||= text; // to be sent again
    }
    at("text").focus();
  }

  request(text) {
    const shared = {
      model: this.model,
      stream: true,
      stream_options: { include_usage: true },
      temperature: number("temperature"),
      top_p: number("top_p"),
      max_tokens: number("max_tokens"),
      seed: number("seed"),
    };
    if (at("mode").value === "completion") return ["/v1/completions", { ...shared, prompt: text }];
    const system = at("system").value.trim();
    const start = system ? [{ role: "system", content: system }] : [];
    return ["/v1/chat/completions", { ...shared, messages: [...start, ...this.messages] }];
  }

  /** The text of the answer; "" if there was none. */
  async answer(place, text) {
    this.going(new AbortController());
    place.text.classList.add("going");
    const [path, body] = this.request(text);
    const began = performance.now();
    let said = "", first = 0, usage = null, cut = false;
    try {
      for await (const event of post(path, body, this.key.headers(), this.answering.signal)) {
        usage = event.usage ?? usage;
        const choice = event.choices[0];
        cut ||= choice?.finish_reason === "length";
        const piece = choice?.delta?.content ?? choice?.text ?? "";
        if (!piece) continue;
        first ||= performance.now();
        said += piece;
        place.text.append(piece);
        this.follow();
      }
      place.figures.textContent = figures(usage, began, first) + (cut ? "; cut at max tokens" : "");
      this.follow();
    } catch (error) {
      if (error.name === "AbortError") place.figures.textContent = "stopped";
      else this.fail(place, error);
    }
    place.text.classList.remove("going");
    this.going(null);
    return said;
  }

  fail(place, error) {
    place.figures.textContent = error.message;
    place.figures.classList.add("error");
    this.follow();
    if (error.status === 401) this.key.ask();
  }

  going(controller) {
    this.answering = controller;
    at("stop").hidden = !controller;
    at("send").disabled = Boolean(controller);
  }

  show(who, name) {
    this.hint.remove();
    const article = document.createElement("article");
    article.className = who;
    const [title, text, line] = ["h2", "p", "p"].map((tag) => article.appendChild(document.createElement(tag)));
    title.textContent = name;
    text.className = "text";
    line.className = "figures";
    at("log").append(article);
    this.atEnd = true;
    this.follow();
    return { text, figures: line };
  }

  /** Scrolls along with an answer, unless the reader has scrolled away. */
  follow() {
    if (this.atEnd) at("log").scrollTop = at("log").scrollHeight;
  }
}

function figures(usage, began, first) {
  if (!usage || !first) return "";
  const count = usage.completion_tokens;
  // Over all of the time: behind the first piece there may be nothing, where pieces are joined.
  const rate = Math.round(count / ((performance.now() - began) / 1000));
  return `${count} tokens, the first after ${Math.round(first - began)} ms, ${rate} tokens/s in all`;
}
