// Server-sent events of a POST, as the objects in their data lines.

/** Yields every event's object until [DONE]. Throws an Error with the server's own message. */
export async function* post(path, body, headers, signal) {
  const answer = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", ...headers },
    body: JSON.stringify(body),
    signal,
  });
  if (!answer.ok) throw await errorOf(answer);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Error("the server ended before the answer did");
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ")) continue;
      const data = line.slice(6);
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Error(event.error.message);
      yield event;
    }
  }
}

async function errorOf(answer) {
  try {
    const { error } = await answer.json();
    return Object.assign(new Error(error.message), { status: answer.status, code: error.code });
  } catch {
    return new Error(`${answer.status} ${answer.statusText}`);
  }
}
