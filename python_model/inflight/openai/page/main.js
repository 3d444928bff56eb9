// Joins the page: the state of the server, the chat, the plots.
import { Chat } from "./chat.js";
import { Key } from "./key.js";
import { Live } from "./live.js";

const key = new Key();

async function showState() {
  const dot = document.getElementById("dot");
  const model = document.getElementById("model");
  try {
    const ready = (await fetch("/health")).ok;
    dot.className = ready ? "dot ready" : "dot";
    const answer = await fetch("/v1/models", { headers: key.headers() });
    if (answer.status === 401) {
      key.ask();
      model.textContent = "needs an API key";
      return;
    }
    const card = (await answer.json()).data[0];
    chat.meet(card);
    model.textContent = `${card.id}${ready ? "" : ", not ready"}, context ${card.max_model_len}`;
  } catch {
    dot.className = "dot gone";
    model.textContent = "the server does not answer";
  }
}

const chat = new Chat(key);
key.changed = showState;
new Live(document.getElementById("plots")).start();
showState();
setInterval(() => document.hidden || showState(), 5000);
