// The player: JPEG strips come in, frames go to the canvas at the film's pace. When few are left it asks for more, so
// that the model is never far ahead of the picture and a new prompt shows soon.
const canvas = element.querySelector("canvas");
const paint = canvas.getContext("2d");
const over = element.querySelector(".over");
const state = element.querySelector(".state");
const saying = element.querySelector(".saying");
const clock = element.querySelector(".clock");
const notice = element.querySelector(".notice");

const WAIT = 250; // ms without a frame after which the page says so
let fps = 16;
let token = null;
let frames = []; // ready to be drawn
let coming = 0; // pieces still being decoded
let due = 0;
let lastDrawn = 0;
let asked = true; // the server may make a first chunk unasked
let askedAt = 0;
let answerTime = 0.4; // seconds from asking to having frames, learnt on the way
let muted = 0; // takes up to this one were stopped
let newest = 0;
let pressedAt = 0;
let unanswered = null; // what was typed and pressed, until the server has taken or refused it
let heardAt = performance.now();
let story = { making: null, queue: [] };
let place = null;
let takes = new Map();
let decoding = Promise.resolve();

bus.act = (what, more = {}) => server.act({ token, do: what, ...more });
bus.trigger = trigger;

function bytesOf(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const letters = atob(text);
  const bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  return bytes;
}

async function unpack(piece) {
  const picture = await createImageBitmap(new Blob([bytesOf(piece.jpeg)], { type: "image/jpeg" }));
  for (let i = 0; i < piece.count; i++) frames.push({ picture, piece, row: i, number: piece.first + i });
}

function ask() {
  asked = true;
  askedAt = performance.now();
  bus.act("more").catch(() => setTimeout(() => (asked = false), 1000));
}

const hear = {
  hello(message) {
    token = message.token;
    fps = message.fps;
    muted = newest;
    fit(message.width, message.height);
    asked = true;
    unanswered = null;
    bus.tell("hello", message);
  },
  frames(message) {
    if (message.whole) {
      if (asked && askedAt) answerTime = 0.7 * answerTime + 0.3 * ((performance.now() - askedAt) / 1000);
      asked = false;
    }
    if (message.take <= muted) return;
    coming++;
    decoding = decoding.then(() => unpack(message)).catch(console.error).then(() => coming--);
  },
  begin(message) {
    newest = message.take;
    takes = new Map([...takes, [message.take, message]].slice(-4));
  },
  replay(message) {
    clear();
    muted = message.take - 1;
    newest = message.take;
    takes.set(message.take, { title: message.title });
  },
  story(message) {
    story = message;
    const settled = JSON.stringify([message.global_caption, message.versions, message.current]);
    if (settled !== hear.settled) trigger("settle");
    hear.settled = settled;
    bus.tell("story", message);
  },
  place(message) {
    place = message.place;
  },
  answered(message) {
    unanswered = null;
    if (message.taken && boxOf("shot").value === message.text) typeInto("shot", "");
  },
  notice(message) {
    notice.textContent = message.text;
    notice.dataset.tone = message.tone;
    notice.hidden = false;
    clearTimeout(hear.timer);
    hear.timer = setTimeout(() => (notice.hidden = true), 12000);
  },
};

watch("value", () => {
  heardAt = performance.now();
  for (const message of JSON.parse(props.value || "[]")) {
    if (hear[message.kind]) hear[message.kind](message);
    else bus.tell(message.kind, message);
  }
});

// Nothing of what is on its way is shown any more.
bus.hush = () => {
  muted = newest;
  clear();
};

function clear() {
  frames = [];
  decoding = decoding.then(() => (frames = frames.filter((frame) => frame.piece.take > muted)));
}

function fit(width, height) {
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  }
  const room = canvas.parentElement.clientWidth;
  const dots = window.devicePixelRatio || 1;
  const tall = window.innerHeight * 0.62;
  // A small picture stays crisp; where its pixels are few dots wide, by a whole number of them.
  const small = width < 400;
  let scale = Math.min(room / width, Math.max(tall, 160) / height);
  if (small && scale * dots < 4) scale = Math.max(1, Math.floor(scale * dots)) / dots;
  canvas.style.width = `${width * scale}px`;
  canvas.style.height = `${height * scale}px`;
  canvas.style.imageRendering = small ? "pixelated" : "auto";
}
new ResizeObserver(() => fit(canvas.width, canvas.height)).observe(canvas.parentElement);

function draw(frame, now) {
  const { piece, row } = frame;
  if (piece.width !== canvas.width || piece.height !== canvas.height) fit(piece.width, piece.height);
  paint.drawImage(frame.picture, 0, row * piece.height, piece.width, piece.height, 0, 0, piece.width, piece.height);
  lastDrawn = now;
  if (pressedAt && piece.first === 0 && row === 0 && !takes.get(piece.take)?.title) {
    bus.tell("latency", (performance.now() - pressedAt) / 1000);
    pressedAt = 0;
  }
  if (row === 0) bus.tell("showing", { take: takes.get(piece.take), piece });
  const take = takes.get(piece.take);
  saying.textContent = take?.title ? `Playing ${take.title}` : `Shot ${take?.shot ?? ""}: ${piece.caption ?? ""}`;
  clock.textContent = `${(frame.number / fps).toFixed(1)} s`;
}

function say(what, words) {
  if (state.dataset.state !== what) state.dataset.state = what;
  if (state.textContent !== words) state.textContent = words;
}

function report(now) {
  const empty = !frames.length && !coming;
  const late = now - lastDrawn > WAIT;
  const wanted = story.making || (story.queue.length && !story.held);
  if (!empty) say("playing", "playing");
  else if (wanted && place > 0) say("line", `waiting: ${place} before you`);
  else if (wanted && late) say("waiting", "waiting for the model");
  else if (story.held && late) say("held", "stopped");
  else if (late && !wanted) say("idle", "ready");
  over.textContent = lastDrawn ? "" : wanted ? "The first frame is on its way" : "Say what happens, and press Shoot";
}

function tick(now) {
  requestAnimationFrame(tick);
  const period = 1000 / fps;
  if (frames.length && now >= due) {
    draw(frames.shift(), now);
    // Late by more than a frame (a hidden page, a slow model): the film's clock starts anew.
    due = now - due > period ? now + period : due + period;
  }
  const few = fps * (1.25 * answerTime + 0.12);
  if (!asked && frames.length <= few) ask();
  report(now);
}
requestAnimationFrame(tick);

// What was pressed, as early as the page can know it. Only a shot that begins at once is timed. The same words once
// more, before they are answered, are a double click: Gradio does not hear of it.
function pressed(event) {
  const words = boxOf("shot").value;
  if (words === unanswered) {
    event.preventDefault();
    event.stopPropagation();
    return;
  }
  unanswered = words;
  const idle = !frames.length && !coming && !story.making && !story.queue.length;
  if (idle) pressedAt = performance.now();
}
document.addEventListener(
  "click",
  (event) => {
    if (event.target.closest?.("#shoot, #turn")) pressed(event);
    if (event.target.closest?.("#stop")) {
      bus.hush();
      bus.act("stop");
    }
  },
  true,
);
document.addEventListener(
  "keydown",
  (event) => {
    if (event.key === "Enter" && !event.shiftKey && event.target.closest?.("#shot")) pressed(event);
  },
  true,
);

// Story files may be dropped anywhere.
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dropping");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  if (event.dataTransfer?.files.length) bus.load(event.dataTransfer.files[0]);
});
bus.load = async (file) => {
  if (file.size > 1e6) return hear.notice({ text: `${file.name} is too large for a story file`, tone: "error" });
  bus.hush();
  await bus.act("load", { name: file.name, text: await file.text() });
};

// The stream is opened from here, when nothing can be missed any more, and once more if it falls silent.
trigger("begin");
setInterval(() => {
  if (performance.now() - heardAt < 35000) return;
  heardAt = performance.now();
  trigger("begin");
}, 5000);
void ["settle", "retake"]; // events that other parts trigger through the bus
