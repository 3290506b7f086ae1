// The line to the server: requests in the order they were made, each done once however often it is sent; messages in
// order, none lost while the line is broken. A session begins with the first request, and lives on in this tab.
const WAIT = 400; // ms between tries
const ears = new Map();
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

let token = sessionStorage.getItem("shotstream token");
let count = Date.now(); // larger than any number used before a reload
const page = Math.random().toString(36).slice(2); // a tab that was duplicated knows the same session
let turn = Promise.resolve();
let polling = false;
export let online = true;

export function on(kind, ear) {
  ears.set(kind, [...(ears.get(kind) ?? []), ear]);
}

export function tell(kind, what) {
  for (const ear of ears.get(kind) ?? []) ear(what);
}

export const hasSession = () => Boolean(token);

function connected(yes) {
  if (online !== yes) tell("online", (online = yes));
}

// A request that goes on until there is an answer.
async function send(path, body) {
  for (;;) {
    try {
      const answer = await fetch(`api/${path}`, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(body),
      });
      if (answer.status < 500 || answer.status === 503) {
        connected(true);
        return answer;
      }
    } catch {
      connected(false);
    }
    await sleep(WAIT);
  }
}

async function begin() {
  const answer = await (await send("begin", {})).json();
  if (answer.error) return answer;
  token = answer.token;
  sessionStorage.setItem("shotstream token", token);
  listen();
  return answer;
}

function gone() {
  if (!token) return;
  token = null;
  sessionStorage.removeItem("shotstream token");
  tell("gone");
}

// Does one thing. The answer is {} or what was asked for; {error} was told to the visitor.
export function act(what, more = {}) {
  const number = ++count;
  const next = turn.then(async () => {
    if (!token) {
      const began = await begin();
      if (began.error) return complain(began);
    }
    const answer = await send("act", { token, n: number, do: what, ...more });
    if (answer.status === 410) {
      gone();
      return { error: "gone" };
    }
    return complain(await answer.json());
  });
  turn = next.catch(() => {});
  return next;
}

function complain(answer) {
  if (answer.error) tell("notice", { text: answer.error, tone: "error" });
  return answer;
}

// What is large: the frames of a take, a film.
export async function get(path, body) {
  if (!token) return null;
  const answer = await send(path, { token, ...body });
  if (answer.status === 410) gone();
  if (!answer.ok) {
    if (answer.status !== 410) complain(await answer.json());
    return null;
  }
  return answer;
}

async function listen() {
  if (polling || !token) return;
  polling = true;
  let after = null;
  while (token) {
    const answer = await send("poll", { token, after, page });
    if (answer.status === 409) {
      tell("elsewhere");
      break;
    }
    if (answer.status === 410) {
      gone();
      break;
    }
    const { messages } = await answer.json();
    after ??= 0;
    for (const message of messages) {
      after = Math.max(after, message.seq);
      tell(message.kind, message);
    }
  }
  polling = false;
}

export const rejoin = listen;
