// The player: frames of takes are kept as JPEG strips and drawn at the film's pace. The live film follows the shot being
// made and asks for more when little is left; any other film is played from what is there.
import { act, get, on, tell } from "./line.js";

const canvas = document.querySelector("canvas");
const paint = canvas.getContext("2d");
const $ = (id) => document.getElementById(id);
const GAP = 4; // dots between two films side by side
const KEPT = 40; // strips whose pictures are kept decoded

let fps = 16;
let size = [224, 128];
const takes = new Map(); // id -> { frames, begin, looks, edition }
let decoded = []; // strips with a picture, the latest last

let live = { takes: [], at: 0 };
let film = null; // { tracks: [{ label, takes }], at, title, from }; null while the live film is shown
let paused = false;
let looping = false;
let due = 0;
let drawnAt = 0;
let asked = true; // the server makes a first chunk unasked
let askedAt = 0;
const answer = { first: 0.6, next: 0.35 }; // seconds from asking to having frames, learnt on the way
let waiting = { making: null, queue: [], held: false };
let place = { place: null };
let hold = null; // { take, at }: frames from there on wait for the answer to a change
let hurry = 0; // until then the film runs a little faster, for a change to be seen
let onlineNow = true;

export const measured = { change: [] }; // seconds from pressing Change now to the first frame of it

export const config = (model) => {
  fps = model.fps;
  size = [model.width, model.height];
  canvas.width = size[0];
  canvas.height = size[1];
  canvas.classList.toggle("small", size[0] < 400);
};

const known = (id) => {
  if (!takes.has(id)) takes.set(id, { id, frames: [], looks: [], begin: null, edition: 0 });
  return takes.get(id);
};

function bytesOf(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const letters = atob(text);
  const bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  return bytes;
}

function add(take, piece) {
  const strip = { blob: new Blob([bytesOf(piece.jpeg)], { type: "image/jpeg" }), picture: null, count: piece.count, first: piece.first };
  take.frames.length = Math.min(take.frames.length, piece.first);
  if (take.frames.length < piece.first) return; // a page that came in the middle
  for (let row = 0; row < piece.count; row++) take.frames.push({ strip, row });
}

async function decode(strip) {
  if (strip.picture || strip.decoding) return;
  strip.decoding = true;
  strip.picture = await createImageBitmap(strip.blob).catch(() => null);
  strip.decoding = false;
  decoded.push(strip);
  while (decoded.length > KEPT) {
    const old = decoded.shift();
    old.picture?.close();
    old.picture = null;
  }
}

// Where a place in a track is: [take, its frame], and how long the track is.
function locate(ids, at) {
  for (const id of ids) {
    const length = known(id).frames.length;
    if (at < length) return [known(id), at];
    at -= length;
  }
  return null;
}
const lengthOf = (ids) => ids.reduce((sum, id) => sum + known(id).frames.length, 0);
const shown = () => film ?? live;
const tracksOf = (one) => one.tracks ?? [{ takes: one.takes }];
const lengthOfFilm = (one) => Math.max(...tracksOf(one).map((track) => lengthOf(track.takes)));

// What the visitor has seen of the live film, or will have some frames later: [take, frames].
export function seen(ahead = 0) {
  let at = Math.min(live.at + ahead, lengthOf(live.takes));
  for (const id of live.takes) {
    const length = known(id).frames.length;
    if (at <= length) return [id, at];
    at -= length;
  }
  return null;
}

export function cutAt([id, count]) {
  const take = takes.get(id);
  if (!take) return;
  take.frames.length = Math.min(take.frames.length, count);
  take.closed = true;
  live.takes = live.takes.slice(0, live.takes.indexOf(id) + 1);
  live.at = Math.min(live.at, lengthOf(live.takes));
}

// A little ahead of what is seen: the next shot's first frame will be there by then.
export const soon = () => seen(Math.ceil(fps * Math.max(0.25, answer.first)));
export const isLive = () => !film && live.takes.length > 0 && (waiting.making !== null || live.at < lengthOf(live.takes));

let changing = null; // { take, from, pressed }
export async function change(caption) {
  const pressed = performance.now();
  const before = seen();
  const take = before && takes.get(before[0]);
  const edition = take?.edition;
  if (take) {
    const later = take.frames.find(({ strip }) => strip.first >= before[1]);
    hold = { take, at: chunkAfter(take, before[1]) ?? later?.strip.first ?? take.frames.length };
  }
  const reply = await act("turn", { caption, seen: before });
  if (take && !reply.error) {
    hurry = pressed + 1500;
    changing = { take, from: reply.from, pressed };
    if (take.edition === edition) take.frames.length = Math.min(take.frames.length, Math.max(reply.from, 0));
  }
  hold = null;
  return reply;
}

// The first frame of the chunk after the one being seen: chunks end where the server said so.
function chunkAfter(take, count) {
  return take.ends?.find((end) => end >= count);
}

on("begin", (message) => {
  const take = known(message.take);
  take.frames = [];
  Object.assign(take, { begin: message, looks: [], ends: [0], closed: false });
  if (!message.aside && !live.takes.includes(take.id)) {
    while (live.takes.length > 1 && live.at >= known(live.takes[0]).frames.length) live.at -= known(live.takes.shift()).frames.length;
    live.takes.push(take.id);
  }
});

on("frames", (message) => {
  const take = known(message.take);
  if (message.first < take.frames.length) {
    take.edition++;
    take.looks = take.looks.filter((look) => look.first < message.first);
    take.ends = (take.ends ?? []).filter((end) => end <= message.first);
  }
  if (message.whole) {
    if (asked && askedAt) {
      const kind = message.first > 1 ? "next" : "first";
      const took = (performance.now() - askedAt) / 1000;
      answer[kind] = 0.7 * answer[kind] + 0.3 * Math.min(took, 3);
    }
    asked = false;
    (take.ends ??= []).push(message.first + message.count);
  }
  if (take.closed) return;
  add(take, message);
  take.looks.push(message);
  if (take.frames.length) decode(take.frames.at(-1).strip);
});

on("story", (message) => {
  waiting = message;
  if (message.making === null && !message.queue.length) askedAt = 0;
});
on("pressed", () => (askedAt ||= performance.now()));
on("place", (message) => (place = message));
on("online", (yes) => (onlineNow = yes));

// Plays takes that are made: tracks of takes, one beside the other.
export async function show(tracks, title, from = 0, more = {}) {
  const ids = tracks.flatMap((track) => track.takes);
  await Promise.all(ids.map(fetchTake));
  film = { tracks, at: from, title, from, ...more };
  paused = false;
  due = 0;
  controls();
}

async function fetchTake(id) {
  const take = known(id);
  if (take.whole) return;
  const reply = await get("frames", { take: id });
  if (!reply) return;
  const told = await reply.json();
  Object.assign(take, { frames: [], begin: told.begin, looks: told.looks, whole: true });
  for (const piece of told.strips) add(take, piece);
}

// A take's frames are other ones now.
export function forget(id) {
  const take = takes.get(id);
  if (take && !live.takes.includes(id)) takes.delete(id);
  else if (take) take.whole = false;
}

export function toLive() {
  film = null;
  paused = false;
  due = 0;
  controls();
}

function ask() {
  asked = true;
  askedAt = performance.now();
  act("more", { seen: seen() });
}

function draw(now) {
  const one = shown();
  const tracks = tracksOf(one);
  const width = tracks.length * size[0] + (tracks.length - 1) * GAP;
  const places = tracks.map((track) => locate(track.takes, Math.min(one.at, lengthOf(track.takes) - 1)));
  if (places.some((found) => found && !found[0].frames[found[1]].strip.picture)) {
    places.forEach((found) => found && decode(found[0].frames[found[1]].strip));
    return false;
  }
  if (canvas.width !== width) canvas.width = width;
  places.forEach((found, i) => {
    if (!found) return;
    const { strip, row } = found[0].frames[found[1]];
    paint.drawImage(strip.picture, 0, row * size[1], size[0], size[1], i * (size[0] + GAP), 0, ...size);
  });
  drawnAt = now;
  if (changing && places[0]?.[0] === changing.take && places[0][1] >= changing.from) {
    measured.change.push((performance.now() - changing.pressed) / 1000);
    changing = null;
    hurry = 0;
  }
  const [take, number] = places[0] ?? [];
  if (take) describe(one, take, number, places);
  const [ahead] = [locate(tracks[0].takes, one.at + 8)];
  if (ahead) decode(ahead[0].frames[ahead[1]].strip);
  return true;
}

let described = "";
function describe(one, take, number, places) {
  const look = take.looks.findLast?.((look) => look.first <= number) ?? take.looks[0];
  const begin = take.begin;
  const caption = look?.caption ?? begin?.caption ?? "";
  const words = one.title ? `${one.title}: ${caption}` : `Shot ${begin?.shot ?? ""}: ${caption}`;
  if (words !== described) {
    $("saying").textContent = described = words;
    canvas.setAttribute("aria-label", `The film. ${words}`);
  }
  $("scrub").max = Math.max(0, lengthOfFilm(one) - 1);
  $("scrub").value = one.at;
  $("scrub").setAttribute("aria-valuetext", `${(one.at / fps).toFixed(1)} seconds`);
  $("clock").textContent = `${(one.at / fps).toFixed(1)} s`;
  if (one === live && number === 0) tell("first", performance.now());
  if (begin && look && (take.shownLook !== look || places.length > 1)) tell("showing", { begin, look });
  take.shownLook = look;
}

function say(what, words) {
  const state = $("state");
  if (state.dataset.state !== what) state.dataset.state = what;
  if (state.textContent !== words) state.textContent = words;
}

function report(now) {
  const one = shown();
  const rest = lengthOfFilm(one) - one.at;
  const wanted = waiting.making !== null || (waiting.queue.length && !waiting.held);
  const late = now - drawnAt > 250;
  if (!onlineNow) say("offline", "no connection: trying again");
  else if (paused) say("paused", "paused");
  else if (rest > 0 && !late) say("playing", film ? "playing again" : "playing");
  else if (wanted && place.place > 0) {
    const time = place.seconds ? `, about ${Math.ceil(place.seconds)} s` : "";
    say("line", `waiting: ${place.place} before you${time}`);
  } else if (wanted && late) say("waiting", "waiting for the model");
  else if (waiting.held) say("held", "stopped");
  else if (late && !wanted && rest <= 0) say("idle", "ready");
  const over = drawnAt ? "" : wanted ? "The first frame is on its way" : "Say what happens, and press Shoot";
  if ($("over").textContent !== over) $("over").textContent = over;
}

function tick(now) {
  requestAnimationFrame(tick);
  const one = shown();
  const total = lengthOfFilm(one);
  let period = 1000 / fps;
  if (now < hurry) period *= 0.87;
  if (!paused && one.at < total && now >= due) {
    const found = one === live && hold ? locate(one.takes, one.at) : null;
    const held = found && found[0] === hold.take && found[1] >= hold.at;
    if (!held && draw(now)) {
      one.at++;
      // Late by more than a frame (a hidden page, a slow model): the film's clock starts anew.
      due = now - due > period ? now + period : due + period;
    }
  } else if (!paused && film && one.at >= total && total) {
    if (looping) film.at = film.from;
    else if (live.at < lengthOf(live.takes)) toLive();
  }
  const few = fps * (1.25 * (waiting.making !== null ? answer.next : answer.first) + 0.12);
  if (!asked && !film && !paused && lengthOf(live.takes) - live.at <= few) ask();
  report(now);
}
requestAnimationFrame(tick);

// Controls

function controls() {
  $("play").textContent = paused ? "▶" : "❚❚";
  $("play").setAttribute("aria-label", paused ? "Play" : "Pause");
  $("live").hidden = !film || live.at >= lengthOf(live.takes);
  $("labels").hidden = !(film && film.tracks.length > 1);
  $("card").hidden = !(film && film.card?.length);
  if (film && film.tracks.length > 1) tell("labels", film);
}

export function pause(yes = !paused) {
  const one = shown();
  if (paused && !yes && one.at >= lengthOfFilm(one)) one.at = film ? film.from : 0;
  paused = yes;
  due = 0;
  controls();
}

export function step(by) {
  paused = true;
  controls();
  const one = shown();
  // `at` is the next frame to be drawn; the one on the screen is before it.
  one.at = Math.max(0, Math.min(lengthOfFilm(one) - 1, one.at - 1 + by));
  redraw();
}

function redraw() {
  const one = shown();
  if (one.at < lengthOfFilm(one) && draw(performance.now())) one.at++;
  else setTimeout(() => draw(performance.now()) && one.at++, 60);
}

export function loop() {
  looping = !looping;
  $("loop").setAttribute("aria-pressed", looping);
}

export function fullScreen() {
  if (document.fullscreenElement) document.exitFullscreen();
  else $("stage").requestFullscreen?.();
}

$("play").onclick = () => pause();
$("back").onclick = () => step(-1);
$("forth").onclick = () => step(1);
$("loop").onclick = loop;
$("full").onclick = fullScreen;
$("live").onclick = toLive;
$("scrub").oninput = () => {
  paused = true;
  shown().at = Number($("scrub").value);
  redraw();
  controls();
};
on("story", controls);
