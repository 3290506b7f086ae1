// The story so far: a strip a shot, its takes on it. The chosen shot is opened beside: change it, take it again, compare.
import { $, button, download, make, renew, shotMark } from "./dom.js";
import { act, get, on } from "./line.js";
import { forget, show } from "./player.js";

const cards = new Map();
const line = $("timeline");
const inspector = $("inspector");
let story = { versions: [{ name: "A", strips: [], pictures: [] }], current: 0, queue: [], making: null, held: false };
let model = { fps: 16, lessons: {} };
let open = null; // number of the opened shot, from 1

export const strips = () => story.versions[story.current].strips;
export const chosen = (strip) => cards.get(strip.takes[strip.chosen]);
const isMade = (card) => Boolean(card?.print);
const seconds = (frames) => `${(frames / model.fps).toFixed(1)} s`;

export function configure(told) {
  model = told;
}

export function playAll() {
  const takes = strips().map((strip) => strip.takes[strip.chosen]).filter((id) => isMade(cards.get(id)));
  if (takes.length) show([{ takes }], "The film");
}

export function playShot(number) {
  const strip = strips()[number - 1];
  if (strip && isMade(chosen(strip))) show([{ takes: [strip.takes[strip.chosen]] }], `Shot ${number}`);
}

export async function film(number) {
  const answer = await get("film", number ? { number } : {});
  if (answer) download(number ? `shot${number}.mp4` : "film.mp4", await answer.blob());
}

function face(strip, number, version) {
  const card = chosen(strip);
  const shown = isMade(card) ? card : strip.takes.map((id) => cards.get(id)).find(isMade);
  const opened = number === open && version === story.current;
  const waits = strip.takes.some((id) => story.queue.includes(id));
  const makes = strip.takes.includes(story.making);
  const state = makes ? "being made" : waits ? "waits" : strip.stale ? "made before a change" : "";
  const facts = [state, isMade(card) && seconds(card.frames), card?.note, Object.keys(card?.settings ?? {}).some((key) => key !== "keep") && !card.note && "switched"];
  const row = make("div", { class: "takes" });
  if (strip.takes.length > 1) {
    row.append(
      ...strip.takes.map((id, i) =>
        button(String(i + 1), () => act("choose", { number, take: id }), {
          "aria-pressed": String(i === strip.chosen),
          "aria-label": `Take ${i + 1} of shot ${number}${cards.get(id)?.note ? `, ${cards.get(id).note}` : ""}`,
          title: cards.get(id)?.note || `Take ${i + 1}`,
          disabled: !isMade(cards.get(id)) || version !== story.current,
          "data-key": `take ${id}`,
        }),
      ),
    );
  }
  if (waits) row.append(button("×", () => act("unqueue", { take: strip.takes.find((id) => story.queue.includes(id)) }), { "aria-label": `Do not make shot ${number}`, "data-key": `no ${number}` }));
  if (card?.unasked?.length && version === story.current) {
    const where = card.unasked.map((frame) => seconds(frame)).join(", ");
    row.append(button("⚠ a cut nobody asked for: take again", () => act("retake", { number }), { class: "warn", title: `At ${where}`, "data-key": `cut ${number}` }));
  }
  const item = make("li", { class: "strip" + (strip.stale ? " stale" : "") + (opened ? " open" : "") + (isMade(card) ? "" : " unmade") },
    make("button", { type: "button", class: "face", "data-key": `strip ${version} ${number}`, "aria-expanded": String(opened), onclick: () => choose(number, version) },
      shown ? make("img", { src: `data:image/jpeg;base64,${shown.stills}`, alt: "" }) : make("span", { class: "blank" }),
      make("span", { class: "caption" }, make("i", { style: `background:${shotMark(number)}` }), make("b", { text: `${number} ` }), card?.caption ?? ""),
      ...(card?.turns ?? []).map((turn) => make("span", { class: "turned", text: `${seconds(turn.frame)} → ${turn.caption}` })),
      make("small", { text: facts.filter(Boolean).join(" · ") })),
    row);
  item.dataset.shot = number;
  if (isMade(card)) item.dataset.print = card.print;
  return item;
}

// A picture the visitor gave, before the first shot.
function given(card, version) {
  return make("li", { class: "strip picture" }, make("img", { src: `data:image/jpeg;base64,${card.stills}`, alt: "" }),
    make("span", { class: "caption" }, make("b", { text: "remembered: " }), card.caption),
    version === story.current && make("div", { class: "takes" }, button("Forget", () => act("forget", { take: card.id }), { "data-key": `forget ${card.id}` })));
}

async function choose(number, version) {
  if (version !== story.current) await act("version", { number: version });
  open = number;
  render();
  playShot(number);
}

function renderLine() {
  const old = new Map([...line.querySelectorAll("ol")].map((row) => [row.dataset.version, row.scrollLeft]));
  const two = story.versions.length > 1;
  const made = strips().some((strip) => isMade(chosen(strip)));
  const stale = strips().filter((strip) => strip.stale).length;
  const tools = make("div", { class: "tools" }, make("h2", { text: "The story so far" }),
    made && button("Play all", playAll, { id: "play-all", "data-key": "play all" }),
    made && !two && button("Branch", () => act("branch"), { id: "branch", title: "Go on in two versions", "data-key": "branch" }),
    two && button("Compare", compareVersions, { id: "compare", title: "Both versions side by side", "data-key": "compare" }),
    two && button("Close version", () => act("close version"), { id: "close-version", "data-key": "close version" }),
    story.held && story.queue.length > 0 && button("Go on", () => act("go on"), { id: "go-on", class: "primary", "data-key": "go on" }),
    stale > 0 && make("span", { class: "stale-note", text: `${stale} shot${stale > 1 ? "s show" : " shows"} the story before your change.` }),
    stale > 0 && button("Make again from there", () => act("remake", { number: 1 }), { id: "remake", "data-key": "remake" }));
  const rows = story.versions.map((version, index) => {
    const row = make("ol", { "aria-label": `Version ${version.name}`, class: index === story.current ? "current" : "" },
      ...version.pictures.map((id) => given(cards.get(id), index)),
      ...version.strips.map((strip, i) => face(strip, i + 1, index)));
    row.dataset.version = version.name;
    if (!two) return row;
    const label = button(version.name, () => act("version", { number: index }), { class: "version", "aria-label": `Version ${version.name}`, "aria-pressed": String(index === story.current), "data-key": `version ${index}` });
    return make("div", { class: "versions" }, label, row);
  });
  if (!strips().length && !story.versions[0].pictures.length && !two) rows.splice(0, 1, make("p", { class: "empty", text: "Your shots will lie here, one strip each." }));
  renew(line, tools, ...rows);
  for (const row of line.querySelectorAll("ol")) row.scrollLeft = old.get(row.dataset.version) ?? row.scrollWidth;
}

function compareVersions() {
  const tracks = story.versions.map((version) => ({
    label: `Version ${version.name}`,
    takes: version.strips.map((strip) => strip.takes[strip.chosen]).filter((id) => isMade(cards.get(id))),
  }));
  show(tracks, "Both versions");
}

function renderInspector() {
  const strip = open && strips()[open - 1];
  const card = strip && chosen(strip);
  inspector.hidden = !card;
  if (!card) return inspector.replaceChildren();
  const number = open;
  const text = make("textarea", { rows: "2", maxlength: "10000", "aria-label": `Caption of shot ${number}`, "data-key": `caption ${card.id}` });
  text.value = card.caption;
  const typed = inspector.querySelector("textarea");
  if (typed?.dataset.key === text.dataset.key) text.value = typed.value;
  const seed = make("input", { size: "11", inputmode: "numeric", placeholder: "new", "aria-label": "Seed of the next take", "data-key": "seed" });
  const length = make("input", { type: "number", min: "0.25", max: String((model.longest - 1) / model.fps), step: "0.25", placeholder: "as before", "aria-label": "Length of the next take, seconds", "data-key": "length" });
  const tool = (name, press, options = {}) => button(name, press, { "data-key": `tool ${name}`, ...options });
  const others = strip.takes.map((id) => cards.get(id)).filter((one) => isMade(one) && one.id !== card.id);
  const lessons = Object.entries(model.lessons).map(([what, name]) => tool(`… ${name}`, () => act("without", { number, what }), { class: "lesson", disabled: !isMade(card) }));
  const facts = isMade(card) ? `seed ${card.seed} · ${card.frames} frames · fingerprint ${card.print}` : "not made yet";
  renew(inspector,
    make("div", { class: "tools" }, make("h2", { text: `Shot ${number}` }),
      tool("Play", () => playShot(number), { disabled: !isMade(card) }),
      tool("◂ Earlier", () => (open--, act("move", { number, by: -1 })), { disabled: number === 1 }),
      tool("Later ▸", () => (open++, act("move", { number, by: 1 })), { disabled: number === strips().length }),
      tool("MP4", () => film(number), { disabled: !isMade(card), "aria-label": `Shot ${number} as MP4` }),
      strip.takes.length > 1 && tool("Remove take", () => act("remove", { number, take: card.id })),
      tool("Remove shot", () => act("remove", { number })),
      tool("×", () => ((open = null), render(), $("shot").focus()), { "aria-label": "Close", class: "close" })),
    text,
    make("div", { class: "tools" },
      tool("Take again", () => act("retake", { number, caption: text.value, seed: seed.value, seconds: length.value ? Number(length.value) : null }), { id: "retake", class: "primary" }),
      make("label", {}, "seed ", seed),
      make("label", {}, "seconds ", length),
      tool("Insert a shot before", () => insert(number))),
    lessons.length > 0 && make("div", { class: "tools lessons" }, make("span", { text: "The same shot, the same seed:" }), ...lessons),
    others.length > 0 && make("div", { class: "tools" }, make("span", { text: "Beside this take:" }),
      ...others.map((one) => tool(`take ${strip.takes.indexOf(one.id) + 1}`, () => act("compare", { number, one: card.id, other: one.id })))),
    make("small", { text: facts + (Object.keys(card.settings).length ? ` · ${JSON.stringify(card.settings)}` : "") }));
}

let inserting = null;
export const insertBefore = () => inserting;
function insert(number) {
  setInsert(number);
  $("shot").focus();
}
export function setInsert(number) {
  inserting = number;
  document.querySelector("label[for=shot]").textContent = number ? `What happens before shot ${number}?` : "What happens next?";
}

function render() {
  if (open > strips().length) open = null;
  renderLine();
  renderInspector();
}

on("cards", (message) => {
  for (const card of message.cards) {
    if (isMade(cards.get(card.id)) && cards.get(card.id).print !== card.print) forget(card.id);
    cards.set(card.id, card);
  }
});
on("story", (message) => {
  const before = strips().length;
  story = message;
  for (const card of message.cards) cards.set(card.id, card);
  render();
  const row = line.querySelector("ol.current");
  if (row && strips().length > before) row.scrollLeft = row.scrollWidth;
});
on("compare", (message) => {
  const tracks = message.takes.map((id, i) => ({ label: message.labels[i], takes: [id] }));
  const from = Math.max(0, message.from - model.fps / 2);
  show(tracks, "Side by side", Math.round(from), { card: message.card, differ: message.from });
});
on("labels", (film) => {
  $("labels").replaceChildren(...film.tracks.map((track) => make("span", { text: track.label })));
  const rows = (film.card ?? []).map((row) => make("tr", {}, make("th", { scope: "row", text: row.name }), make("td", { text: row.earlier }),
    ...row.read.map((word) => make("td", { class: word === row.earlier ? "kept" : "lost", text: `${word} ${word === row.earlier ? "✓" : "✗"}` }))));
  $("card").replaceChildren(make("table", {}, make("caption", { text: "What was kept, though no caption names it" }),
    make("tr", {}, make("td"), make("th", { scope: "col", text: "earlier" }), ...film.tracks.map((track) => make("th", { scope: "col", text: track.label }))), ...rows));
});

export const thumbnail = () => {
  const card = strips().map(chosen).find(isMade);
  return card?.stills;
};
export const current = () => story;
