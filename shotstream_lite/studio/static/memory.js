// Both memories as the chunk on the screen saw them: one cell a latent frame, its bar is the attention spent on it.
const budget = element.querySelector(".budget");
const cells = element.querySelector(".cells");
const legend = element.querySelector(".legend");
const when = element.querySelector("h3 small");
const COLOURS = { global: "#0072B2", local: "#E69F00", own: "#999999" };
const NAMES = { global: "global cache: earlier shots", local: "local cache: this shot so far", own: "the chunk itself" };

function memories(take, piece) {
  // The latents this chunk could look at: the context, what was there of the shot, and itself.
  const context = take.context.length || take.empty;
  const seen = piece.shares ? piece.shares.length - context : latents(piece.first + piece.count);
  const own = Math.min(take.chunk, ((seen - 1) % take.chunk) + 1);
  const list = [];
  for (let i = 0; i < context; i++) list.push({ kind: "global", ...(take.context[i] ?? { empty: true }) });
  for (let i = 0; i < take.latents; i++) {
    const kind = i < seen - own ? "local" : i < seen ? "own" : "later";
    list.push({ kind, latent: i, seam: i % take.chunk === 0 });
  }
  return list.map((cell, i) => ({ ...cell, share: piece.shares?.[i] ?? 0 }));
}

const latents = (frames) => Math.ceil((frames - 1) / 4) + 1;
const percent = (share) => `${Math.round(100 * share)} %`;

function cell(memory, most) {
  const bar = make("i", { style: `height:${(100 * memory.share) / most}%;background:${COLOURS[memory.kind] ?? "none"}` });
  const box = make("div", { class: "box" });
  let words = "";
  if (memory.picture) {
    box.append(make("img", { src: `data:image/jpeg;base64,${memory.picture}`, alt: "" }));
    words = `shot ${memory.shot}`;
    box.append(make("em", { style: `background:${shotMark(memory.shot)}` }));
  } else if (memory.kind === "global") words = "empty";
  else words = `${memory.latent + 1}`;
  const title = memory.kind === "later" ? "not made yet" : `${words}: ${percent(memory.share)} of the attention`;
  return make("div", { class: `cell ${memory.kind}${memory.seam ? " seam" : ""}`, title },
    make("div", { class: "bar" }, bar), box, make("span", { text: words }));
}

function show({ take, piece }) {
  if (!take?.context) return; // a film played again has nothing to remember
  const list = memories(take, piece);
  const sums = { global: 0, local: 0, own: 0 };
  for (const memory of list) if (memory.kind in sums) sums[memory.kind] += memory.share;
  const chunk = Math.ceil(list.filter(({ kind }) => kind === "local" || kind === "own").length / take.chunk);
  when.textContent = `while it makes chunk ${chunk} of ${Math.ceil(take.latents / take.chunk)} of shot ${take.shot}`;
  const total = Object.values(sums).reduce((a, b) => a + b, 0);
  budget.replaceChildren(...Object.entries(sums).filter(([, share]) => share > 0).map(([kind, share]) =>
    make("div", { style: `flex-grow:${share};background:${COLOURS[kind]}`, title: `${NAMES[kind]}: ${percent(share)}` },
      make("span", { text: share > 0.06 ? percent(share) : "" }))));
  budget.hidden = !total;
  const most = Math.max(...list.map((memory) => memory.share), 1e-6);
  cells.replaceChildren(...list.map((memory) => cell(memory, most)));
  legend.replaceChildren(...Object.entries(NAMES).map(([kind, name]) =>
    make("span", {}, make("i", { style: `background:${COLOURS[kind]}` }), name)));
}

legend.textContent = "Once a shot plays you see here which frames of earlier shots it looks at, and how much.";
bus.on("showing", show);
