// The page: what is typed and pressed, what the model remembers, stories kept in this browser.
import { $, button, download, make, shotMark } from "./dom.js";
import { act, hasSession, on, rejoin, tell } from "./line.js";
import * as player from "./player.js";
import * as timeline from "./timeline.js";

let model = null;
let story = { queue: [], making: null, caption: null };

// Notices lie over the page, and stay long enough to be read.
function notice({ text, tone = "note", action }) {
  const time = tone === "error" ? 20000 : 12000;
  const box = make("div", { class: `notice ${tone}`, role: tone === "error" ? "alert" : undefined },
    make("span", { text }), action && button(action[0], () => (box.remove(), action[1]())),
    button("×", () => box.remove(), { "aria-label": "Dismiss" }));
  for (const same of $("notices").children) if (same.firstChild.textContent === text) same.remove();
  $("notices").append(box);
  while ($("notices").children.length > 3) $("notices").firstChild.remove();
  if (!action) setTimeout(() => box.remove(), time);
}
on("notice", notice);

// What is typed stays through a reload.
for (const id of ["shot", "story", "seed"]) {
  $(id).value = sessionStorage.getItem(`shotstream ${id}`) ?? "";
  $(id).addEventListener("input", () => sessionStorage.setItem(`shotstream ${id}`, $(id).value));
}
export function type(id, text) {
  $(id).value = text;
  $(id).dispatchEvent(new Event("input", { bubbles: true }));
}

function switches() {
  const choice = (name) => $("switches").querySelector(`[name="${name}"]:checked`)?.value;
  return {
    memory: $("memory-on").checked,
    jump: $("jump-on").checked,
    history: choice("history"),
    budget: Number($("budget").value),
    steps: Number(choice("steps")),
    ...(choice("weights") ? { weights: choice("weights") } : {}),
  };
}

function wishes() {
  const rolls = $("roll").checked;
  return { story: $("story").value, seconds: rolls ? null : Number($("seconds").value), seed: $("seed").value, switches: switches() };
}

// Shoot, change, cut, stop
let sent = null; // words on their way: the same press once more is a double click

async function shoot() {
  const caption = $("shot").value;
  if (caption === sent) return;
  sent = caption;
  tell("pressed");
  const rolling = player.isLive();
  const until = player.soon();
  const before = timeline.insertBefore();
  const answer = await act("shoot", { caption, seen: until, before, ...wishes() });
  sent = null;
  if (answer.error) return;
  if (rolling && answer.cut) player.cutAt(until);
  if (before) timeline.setInsert(null);
  player.toLive();
  if ($("shot").value === caption) type("shot", "");
}

async function turn() {
  const caption = $("shot").value;
  if (caption === sent) return;
  sent = caption;
  const answer = await player.change(caption);
  sent = null;
  if (!answer.error && $("shot").value === caption) type("shot", "");
}

function end(what) {
  player.toLive();
  const seen = player.seen();
  if (seen) player.cutAt(seen);
  return act(what, { seen });
}

$("prompt").addEventListener("submit", (event) => {
  event.preventDefault();
  shoot();
});
$("shot").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (event.ctrlKey || event.metaKey) turn();
  else shoot();
});
$("turn").onclick = turn;
$("cut").onclick = () => end("cut");
$("stop").onclick = () => end("stop");

// The story's menu
const fresh = () => sessionStorage.setItem("shotstream story id", String(Date.now()));
if (!sessionStorage.getItem("shotstream story id")) fresh();
$("new").onclick = async () => {
  await keepStory();
  fresh();
  act("new");
};
$("undo").onclick = () => act("undo");
$("save").onclick = async () => {
  const { text } = await act("save");
  if (text) download("story.json", new Blob([text], { type: "application/json" }));
};
$("film").onclick = () => timeline.film();
$("open").onclick = () => $("file").click();
$("file").onchange = () => {
  if ($("file").files.length) openFile($("file").files[0]);
  $("file").value = "";
};
async function openFile(file) {
  if (file.type.startsWith("image/")) return remember(file);
  if (file.size > 1e6) return notice({ text: `${file.name} is too large for a story file`, tone: "error" });
  load({ name: file.name, text: await file.text() });
}
// A picture of one's own becomes a remembered frame; the page cuts it to the film's size.
async function remember(file) {
  const bitmap = await createImageBitmap(file).catch(() => null);
  if (!bitmap) return notice({ text: `${file.name} is no picture that can be read`, tone: "error" });
  const frame = make("canvas", { width: model.width, height: model.height, class: "given", role: "img", "aria-label": "Your picture, as the film will see it" });
  const scale = Math.max(model.width / bitmap.width, model.height / bitmap.height);
  const [width, height] = [bitmap.width * scale, bitmap.height * scale];
  const paint = frame.getContext("2d");
  paint.imageSmoothingQuality = "high";
  paint.drawImage(bitmap, (model.width - width) / 2, (model.height - height) / 2, width, height);
  const caption = make("textarea", { rows: "2", maxlength: "5000", "aria-label": "What the picture shows", placeholder: "What the picture shows, as a caption of a shot" });
  dialog("Remember this picture", frame, caption, button("Remember", async () => {
    const picture = frame.toDataURL("image/png").split(",")[1];
    const answer = await act("remember", { story: $("story").value, picture, caption: caption.value });
    if (!answer.error) $("dialog").close();
  }, { class: "primary" }));
}
async function load(what) {
  await keepStory();
  const answer = await act("load", what);
  if (answer.error) return;
  fresh();
  player.toLive();
}
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.toggle("dropping", kind === "dragover" || (kind === "dragleave" && event.relatedTarget !== null));
    if (kind === "drop" && event.dataTransfer?.files.length) openFile(event.dataTransfer.files[0]);
  });
}

function dialog(title, ...content) {
  $("dialog").replaceChildren(make("h2", { id: "dialog-title", text: title }), ...content.filter(Boolean),
    button("Close", () => $("dialog").close(), { class: "close" }));
  $("dialog").showModal();
}
$("board").onclick = () => {
  const text = make("textarea", { rows: "8", "aria-label": "Storyboard, one shot a line", placeholder: "One shot a line" });
  dialog("Storyboard: one shot a line", text,
    button("Shoot them all", async () => {
      const answer = await act("storyboard", { text: text.value, ...wishes() });
      if (!answer.error) ($("dialog").close(), player.toLive());
    }, { class: "primary" }));
};

// Stories kept in this browser, the latest first
const KEPT = "shotstream stories";
const kept = () => {
  try {
    return JSON.parse(localStorage.getItem(KEPT)) ?? [];
  } catch {
    return [];
  }
};
let keeping = 0;
async function keepStory() {
  clearTimeout(keeping);
  keeping = 0;
  if (!hasSession() || !timeline.thumbnail()) return;
  const id = sessionStorage.getItem("shotstream story id");
  const one = { id, title: story.caption, when: Date.now(), shots: timeline.strips().length, thumb: timeline.thumbnail() };
  const { text } = await act("save");
  if (!text || text.length > 400000) return;
  let stories = [{ ...one, text }, ...kept().filter((other) => other.id !== id)].slice(0, 6);
  while (stories.length) {
    try {
      localStorage.setItem(KEPT, JSON.stringify(stories));
      return;
    } catch {
      stories = stories.slice(0, -1); // the browser's room is full
    }
  }
}
$("stories").onclick = async () => {
  await keepStory();
  const list = make("ul", { class: "stories" });
  const add = (title, small, thumb, press) => {
    const choose = button("", () => ($("dialog").close(), press()));
    choose.append(thumb ? make("img", { src: `data:image/jpeg;base64,${thumb}`, alt: "" }) : "", make("b", { text: title }), make("small", { text: small }));
    list.append(make("li", {}, choose));
  };
  for (const name of model.stories) add(name.replaceAll("_", " "), "prepared", null, () => load({ prepared: name }));
  for (const one of kept()) add(one.title, `${one.shots} shot${one.shots > 1 ? "s" : ""}, ${new Date(one.when).toLocaleString()}`, one.thumb, () => load({ name: "your story", text: one.text }));
  dialog("Stories", list.children.length ? list : make("p", { text: "Stories you tell are kept here, in this browser." }));
};
on("gone", () => {
  const last = kept().find((one) => one.id === sessionStorage.getItem("shotstream story id"));
  if (!last) return notice({ text: "Your session had ended. The next shot begins a new one." });
  const again = () => load({ name: "your story", text: last.text });
  notice({ text: "Your session had ended.", action: ["Tell my story again", again] });
});

on("elsewhere", () => notice({ text: "This story is open in another tab.", action: ["Go on here", rejoin] }));

on("story", (message) => {
  story = message;
  const version = message.versions[message.current];
  const settled = message.caption !== null && version.strips.length + version.pictures.length > 0;
  if (settled && $("story").value !== message.caption) type("story", message.caption);
  $("story").readOnly = settled;
  $("story").title = settled ? "It holds for the whole story; begin a new one to change it" : "";
  const made = Boolean(timeline.thumbnail());
  $("save").disabled = $("film").disabled = !made;
  $("undo").disabled = !message.undo;
  $("undo").title = message.undo ? `Undo ${message.undo} (Ctrl+Z)` : "";
  $("undo").setAttribute("aria-label", message.undo ? `Undo ${message.undo}` : "Undo");
  if (made && !message.making && !keeping) keeping = setTimeout(keepStory, 1500);
});

// Keys: where nobody types, they are the player's
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("textarea, input:not([type=range]):not([type=checkbox]):not([type=radio]), dialog");
  if (event.key === "Escape" && !$("dialog").open && !document.fullscreenElement) {
    if (document.body.classList.contains("present")) present(false);
    else end("stop");
    return;
  }
  if (typing || event.altKey) return;
  if (event.ctrlKey || event.metaKey) {
    if (event.key === "z") act("undo");
    return;
  }
  const onButton = event.target.closest?.("button, summary, input");
  const keys = { " ": () => player.pause(), ArrowLeft: () => player.step(-1), ArrowRight: () => player.step(1), l: player.loop, f: player.fullScreen, p: () => present() };
  if (!keys[event.key] || (onButton && event.key.length > 1) || (onButton && event.key === " ")) return;
  event.preventDefault();
  keys[event.key]();
});
function present(yes = !document.body.classList.contains("present")) {
  document.body.classList.toggle("present", yes);
  $("present").setAttribute("aria-pressed", yes);
}
$("present").onclick = () => present();

// What the model remembers: one cell a latent frame of the chunk on the screen, its bar the attention spent on it
const COLOURS = { global: "#0072B2", local: "#E69F00", own: "#999999" };
const NAMES = { global: "global cache: earlier shots", local: "local cache: this shot so far", own: "the chunk itself" };
const latents = (frames) => Math.ceil((frames - 1) / 4) + 1;
const percent = (share) => `${Math.round(100 * share)} %`;
const when = make("small");
const budget = make("div", { class: "budget", role: "img", hidden: true });
const cells = make("div", { class: "cells", tabindex: "0", role: "group", "aria-label": "Remembered frames" });
const legend = make("p", { class: "legend", text: "Once a shot plays you see here which frames of earlier shots it looks at, and how much." });
$("memory").append(make("h2", { text: "What the model remembers " }), when, budget, cells, legend);

function memories(begin, look) {
  const context = begin.context.length || begin.empty;
  const seen = look.shares ? look.shares.length - context : latents(look.first + look.count);
  const own = Math.min(begin.chunk, ((seen - 1) % begin.chunk) + 1);
  const list = [];
  for (let i = 0; i < context; i++) list.push({ kind: "global", ...(begin.context[i] ?? { empty: true }) });
  for (let i = 0; i < begin.latents; i++) list.push({ kind: i < seen - own ? "local" : i < seen ? "own" : "later", latent: i, seam: i % begin.chunk === 0 });
  return list.map((cell, i) => ({ ...cell, share: look.shares?.[i] ?? 0 }));
}

function cell(memory, most) {
  const box = make("div", { class: "box" });
  let words = `${memory.latent + 1}`;
  if (memory.picture) {
    words = memory.shot > 0 ? `shot ${memory.shot}` : "picture";
    box.append(make("img", { src: `data:image/jpeg;base64,${memory.picture}`, alt: "" }), memory.shot > 0 && make("em", { style: `background:${shotMark(memory.shot)}` }));
  } else if (memory.kind === "global") words = "empty";
  const title = memory.kind === "later" ? "not made yet" : `${words}: ${percent(memory.share)} of the attention`;
  const bar = make("i", { style: `height:${(100 * memory.share) / most}%;background:${COLOURS[memory.kind] ?? "none"}` });
  return make("div", { class: `cell ${memory.kind}${memory.seam ? " seam" : ""}`, title }, make("div", { class: "bar" }, bar), box, make("span", { text: words }));
}

on("showing", ({ begin, look }) => {
  const list = memories(begin, look);
  const sums = { global: 0, local: 0, own: 0 };
  for (const memory of list) if (memory.kind in sums) sums[memory.kind] += memory.share;
  const chunk = Math.ceil(list.filter(({ kind }) => kind === "local" || kind === "own").length / begin.chunk);
  when.textContent = `while it makes chunk ${chunk} of ${Math.ceil(begin.latents / begin.chunk)} of shot ${begin.shot}${begin.note ? `, ${begin.note}` : ""}`;
  const parts = Object.entries(sums).filter(([, share]) => share > 0);
  budget.hidden = !parts.length;
  budget.setAttribute("aria-label", parts.map(([kind, share]) => `${NAMES[kind]} ${percent(share)}`).join(", "));
  budget.replaceChildren(...parts.map(([kind, share]) => make("div", { class: kind, style: `flex-grow:${share}` }, make("span", { text: share > 0.06 ? percent(share) : "" }))));
  const most = Math.max(...list.map((memory) => memory.share), 1e-6);
  cells.replaceChildren(...list.map((memory) => cell(memory, most)));
  legend.replaceChildren(...Object.entries(NAMES).map(([kind, name]) => make("span", {}, make("i", { style: `background:${COLOURS[kind]}` }), name)));
});

// What is true of the model and the machine, and how fast the latest shot was
let pressedAt = 0;
let latency = null;
let latest = null;
let facts = {};
on("pressed", () => (pressedAt = player.isLive() ? 0 : performance.now()));
on("first", (now) => {
  if (pressedAt) latency = (now - pressedAt) / 1000;
  pressedAt = 0;
  renderFacts();
});
on("cards", (message) => {
  latest = message.cards.at(-1);
  renderFacts();
});
on("facts", (message) => {
  facts = message;
  renderFacts();
});
const bytes = (n) => (n > 1e9 ? `${(n / 2 ** 30).toFixed(1)} GiB` : `${Math.round(n / 2 ** 20)} MiB`);
const count = (n) => (n > 1e8 ? `${(n / 1e9).toFixed(1)} B` : `${(n / 1e6).toFixed(1)} M`);
function renderFacts() {
  const rows = [
    ["model", facts.model && `${facts.model}, ${count(facts.parameters)} parameters`],
    ["device", facts.device],
    ["attention", facts.attention],
    ["memory used", facts.memory_used && `${bytes(facts.memory_used)} of ${bytes(facts.memory_there)}`],
    ["weights and caches", facts.memory_needed && bytes(facts.memory_needed)],
    ["press to picture", latency && `${latency.toFixed(2)} s`],
    ["change to picture", player.measured.change.length > 0 && `${player.measured.change.at(-1).toFixed(2)} s`],
    ["first frame made in", latest?.first_frame_seconds && `${latest.first_frame_seconds.toFixed(2)} s`],
    ["frames a second", latest?.fps && `${latest.fps.toFixed(0)} decoded, ${latest.model_fps?.toFixed(0) ?? "?"} without decoding`],
    ["pages open", facts.pages > 1 && facts.pages],
  ];
  $("facts").querySelector("dl").replaceChildren(...rows.filter(([, value]) => value).flatMap(([name, value]) => [make("dt", { text: name }), make("dd", { text: String(value) })]));
}

// What depends on the model
function words() {
  const add = (text) => {
    const typed = $("shot").value.trimEnd();
    type("shot", typed ? `${typed} ${text}` : text);
    $("shot").focus();
  };
  const chip = (text, press) => button(text, press, { class: "chip" });
  const names = { who: "Who", colour: "Colour", where: "Where", camera: "Camera", does: "Does", happens: "Happens" };
  const kinds = Object.entries(model.phrases);
  $("words").append(make("h2", { text: "Shots to try" }),
    make("div", { class: "chips" }, ...model.examples.shots.map((text) => chip(text, () => (type("shot", text), $("shot").focus())))));
  if (kinds.length) {
    $("words").append(make("details", {}, make("summary", { text: "All words this model knows" }), ...kinds.map(([kind, list]) =>
      make("div", { class: "kind" }, make("span", { text: names[kind] ?? kind }), make("div", { class: "chips" }, ...list.map((word) => chip(word, () => add(word))))))));
  }
}

function radios(name, legend, values, chosen) {
  return make("fieldset", {}, make("legend", { text: legend }), ...values.map((value) =>
    make("label", {}, make("input", { type: "radio", name, value: String(value), checked: value === chosen }), ` ${value}`)));
}

function setUp() {
  $("switches").append(
    make("p", { text: "They hold from the next shot on and are saved with it." }),
    make("label", {}, make("input", { type: "checkbox", id: "memory-on", checked: true }), " Global cache: remember earlier shots"),
    make("label", {}, make("input", { type: "checkbox", id: "jump-on", checked: true }), " RoPE jump at every cut"),
    radios("history", "History: which frames are remembered", model.policies, model.policy),
    make("label", {}, "Budget: how many ", make("input", { type: "number", id: "budget", min: "1", max: "12", value: String(model.budget) })),
    radios("steps", "Denoising steps of a chunk", model.steps, model.usual_steps),
    model.weights.length ? radios("weights", "Weights, or the rule of another system on them", model.weights, model.usual_weights) : "");
  const longest = (model.longest - 1) / model.fps;
  Object.assign($("seconds"), { min: 0.5, max: longest, step: 0.25, value: (model.usual - 1) / model.fps });
  const rolls = () => {
    $("fixed").hidden = $("roll").checked;
    $("length").textContent = `${Number($("seconds").value).toFixed(2)} s`;
  };
  $("roll").onchange = $("seconds").oninput = rolls;
  $("roll").nextElementSibling.textContent = `Roll until I cut or shoot the next (at most ${longest.toFixed(1)} s)`;
  rolls();
  $("shot").placeholder = model.examples.shots[0];
  if (!$("story").value) $("story").value = model.examples.story;
  words();
}

async function start() {
  for (;;) {
    try {
      model = await (await fetch("api/model")).json();
      break;
    } catch {
      await new Promise((done) => setTimeout(done, 500));
    }
  }
  facts = model.facts;
  player.config(model);
  timeline.configure(model);
  setUp();
  renderFacts();
  document.body.dataset.ready = "yes";
  rejoin();
}
start();
window.studio = { act, load, player, timeline }; // for the browser's console, and for tests
