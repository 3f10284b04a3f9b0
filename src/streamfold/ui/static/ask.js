// Asks the gateway. Where a token is needed the gateway has its own form for it, and a cookie that no script can read.

export class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function answered(path, signal) {
  let answer;
  try {
    answer = await fetch(path, { signal, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, "The gateway does not answer. It may have been stopped.");
  }
  if (answer.ok) return answer;
  if (answer.status === 401) location.reload(); // the gateway asks for a token in the place of a page
  let message = `The gateway answered ${answer.status}.`;
  try {
    message = (await answer.json()).error.message;
  } catch {
    // no message of ours
  }
  throw new Refusal(answer.status, message);
}

export async function ask(path, signal) {
  return JSON.parse(await (await answered(path, signal)).text());
}

// The answer twice: to compute with, and to show as JSON.
export async function askTwice(path, signal) {
  const text = await (await answered(path, signal)).text();
  return [JSON.parse(text), exactly(text)];
}

// JSON whose large integers stay what they are, where the browser can do that. Nothing but JSON can be made of them:
// they are objects, and neither numbers nor texts.
function exactly(text) {
  if (typeof JSON.rawJSON !== "function") return JSON.parse(text);
  return JSON.parse(text, (key, value, context) =>
    typeof value === "number" && Number.isInteger(value) && !Number.isSafeInteger(value) && context?.source
      ? JSON.rawJSON(context.source)
      : value,
  );
}

// Server-sent events, read with fetch because EventSource does not say why it was refused.
export async function* events(path, signal) {
  const reader = (await answered(path, signal)).body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    waiting += value;
    let end;
    while ((end = waiting.indexOf("\n\n")) >= 0) {
      const lines = waiting.slice(0, end).split("\n");
      waiting = waiting.slice(end + 2);
      const data = lines.filter((line) => line.startsWith("data: ")).map((line) => line.slice(6));
      if (data.length) yield JSON.parse(data.join("\n"));
    }
  }
}
