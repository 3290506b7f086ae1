// Shots to begin with, and the words a small model knows; a click puts them into the shot's box.
const box = element.querySelector(".words");
const KINDS = { who: "Who", colour: "Colour", where: "Where", camera: "Camera", does: "Does" };

function chip(text, press) {
  return make("button", { class: "chip", type: "button", text, onclick: press });
}

function add(words) {
  const text = boxOf("shot")?.value.trimEnd() ?? "";
  suggest(text ? `${text} ${words}` : words);
}

function suggest(text) {
  typeInto("shot", text);
  boxOf("shot")?.focus();
}

const shots = make("div", { class: "chips" }, ...props.shots.map((text) => chip(text, () => suggest(text))));
box.append(make("h3", { text: "Shots to try" }), shots);
const kinds = Object.entries(props.phrases ?? {});
if (kinds.length) {
  const rows = kinds.map(([kind, words]) =>
    make("div", { class: "kind" }, make("span", { text: KINDS[kind] ?? kind }),
      make("div", { class: "chips small" }, ...words.map((word) => chip(word, () => add(word))))),
  );
  box.append(make("details", {}, make("summary", { text: "All words this model knows" }), ...rows));
}
