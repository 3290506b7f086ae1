// The story so far: a strip a shot. A click opens it: play it, change it and tell it again, save it.
const tools = element.querySelector(".tools");
const rows = element.querySelector(".versions");
const detail = element.querySelector(".detail");
const queue = element.querySelector(".queue");
const file = element.querySelector("input[type=file]");
const cards = new Map();
let story = { versions: [], queue: [], current: 0 };
let open = null; // number of the opened shot, from 1
let fps = 16;

const KEPT = "shotstream story"; // a reloaded tab may tell its story again

function button(text, press, options = {}) {
  return make("button", { class: "tool", type: "button", text, onclick: press, ...options });
}

function keep(name, blob) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

async function save() {
  const { text, name } = await bus.act("save");
  if (text) keep(name, new Blob([text], { type: "application/json" }));
}

async function film(number) {
  const { base64, name } = await bus.act("film", { number });
  if (!base64) return;
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  keep(name, new Blob([bytes], { type: "video/mp4" }));
}

function renderTools() {
  const told = story.versions[story.current]?.shots.length ?? 0;
  const two = story.versions.length > 1;
  const before = sessionStorage.getItem(KEPT);
  tools.replaceChildren(
    ...[
      told && button("Play all", () => bus.act("play"), { class: "tool", id: "play-all" }),
      (told || story.undo) && button("Undo", () => (story.making && bus.hush(), bus.act("undo")), { id: "undo", disabled: !story.undo }),
      told && !two && button("Branch", () => bus.act("branch"), { id: "branch", title: "Go on in two versions" }),
      two && button("Compare", () => bus.act("compare"), { id: "compare", title: "Both versions side by side" }),
      two && button("Close version", () => bus.act("close version"), { id: "close-version" }),
      make("span", { class: "gap" }),
      told && button("Save story", save, { id: "save" }),
      button("Load story", () => file.click(), { id: "load" }),
      told && button("Film (MP4)", () => film(), { id: "film" }),
      told && button("New story", () => (bus.hush(), bus.act("new")), { id: "new" }),
      !told && !story.making && before && button("Tell my story from before the reload", () => {
        bus.act("load", { name: "your story", text: before });
      }, { id: "again" }),
    ].filter(Boolean),
  );
}

function shotStrip(id, number, stale, version) {
  const card = cards.get(id);
  if (!card) return null;
  const seconds = (card.frames / fps).toFixed(1);
  const facts = [`seed ${card.seed}`, `${seconds} s`, card.fps && `${card.fps.toFixed(0)} fps`];
  const switched = Object.keys(card.settings).length ? " · switched" : "";
  const shown = make("button", { class: `strip${stale ? " stale" : ""}${open === number && version === story.current ? " open" : ""}`, type: "button" },
    make("img", { src: `data:image/jpeg;base64,${card.stills}`, alt: "" }),
    make("span", { class: "caption" }, make("i", { style: `background:${shotMark(number)}` }), `${number}  ${card.caption}`),
    ...card.turns.map((turn) => make("span", { class: "turned", text: `${(turn.frame / fps).toFixed(1)} s → ${turn.caption}` })),
    make("small", { text: (stale ? "made before the change · " : "") + facts.filter(Boolean).join(" · ") + switched }));
  shown.dataset.shot = number;
  shown.dataset.print = card.print;
  shown.onclick = async () => {
    if (version !== story.current) await bus.act("choose", { number: version });
    open = open === number ? null : number;
    if (open) bus.act("play", { number });
    render();
  };
  return shown;
}

function renderRows() {
  const scrolled = new Map([...rows.querySelectorAll(".row")].map((row) => [row.dataset.version, row.scrollLeft]));
  rows.replaceChildren(
    ...story.versions.map((version, index) => {
      const fresh = version.shots.length - version.stale;
      const strips = version.shots.map((id, i) => shotStrip(id, i + 1, i >= fresh, index));
      const name = story.versions.length > 1 &&
        button(`Version ${version.name}`, () => bus.act("choose", { number: index }), { class: "version" });
      const row = make("div", { class: `row${index === story.current ? " current" : ""}` }, name || null, ...strips.filter(Boolean));
      row.dataset.version = version.name;
      return row;
    }),
  );
  for (const row of rows.children) row.scrollLeft = scrolled.get(row.dataset.version) ?? row.scrollWidth;
  const stale = story.versions[story.current]?.stale;
  if (stale) {
    rows.append(make("p", { class: "stale-note" }, `The ${stale > 1 ? `last ${stale} shots show` : "last shot shows"} the story before your change. `,
      button("Tell again", () => bus.act("retell"), { id: "retell" }), button("Remove", () => bus.act("drop stale"), { id: "drop" })));
  }
}

function renderQueue() {
  const next = story.queue.map((wish) =>
    make("span", { class: "wish" }, make("b", { text: wish.retake ? `again ${wish.number}` : "next" }), wish.caption,
      make("button", { type: "button", text: "×", title: "Take it out of the queue", onclick: () => bus.act("unqueue", { number: wish.id }) })));
  if (story.held && story.queue.length) next.push(button("Go on", () => bus.act("go on"), { id: "go-on" }));
  queue.replaceChildren(...next);
}

const openCard = () => (open ? cards.get(story.versions[story.current]?.shots[open - 1]) : undefined);

function renderDetail() {
  const version = story.versions[story.current];
  const card = openCard();
  detail.hidden = !card;
  detail.dataset.card = card?.id;
  if (!card) return detail.replaceChildren();
  const number = open;
  const stale = number > version.shots.length - version.stale;
  const text = make("textarea", { rows: "2", maxlength: "10000", "aria-label": `Prompt of shot ${number}` });
  text.value = card.caption;
  const again = button("Take again", () => bus.trigger("retake", { number, caption: text.value }), { id: "retake", disabled: stale, class: "tool strong" });
  const facts = make("small", { text: `seed ${card.seed} · ${card.frames} frames · fingerprint ${card.print}` +
    (Object.keys(card.settings).length ? ` · ${JSON.stringify(card.settings)}` : "") });
  detail.replaceChildren(make("label", { text: `Shot ${number}` }), text,
    make("div", { class: "tools" }, button("Play", () => bus.act("play", { number }), { id: "play" }), again,
      button("Shot (MP4)", () => film(number), { id: "shot-film" }), make("span", { class: "gap" }), facts));
}

function render() {
  renderTools();
  renderRows();
  renderQueue();
  // What is being typed stays, unless the shot it was about is another one now.
  if (!detail.contains(document.activeElement) || detail.dataset.card !== String(openCard()?.id)) renderDetail();
}

file.onchange = () => {
  if (file.files.length) bus.load(file.files[0]);
  file.value = "";
};
bus.on("hello", (message) => {
  fps = message.fps;
  cards.clear();
});
bus.on("card", (card) => cards.set(card.id, card));
bus.on("story", (message) => {
  const before = story.versions[story.current]?.shots.length;
  story = message;
  if (message.saved) sessionStorage.setItem(KEPT, message.saved);
  if (open > (story.versions[story.current]?.shots.length ?? 0)) open = null;
  render();
  const row = rows.querySelector(".row.current");
  if (row && story.versions[story.current].shots.length > before) row.scrollLeft = row.scrollWidth;
});
render();
