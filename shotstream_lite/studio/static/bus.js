// What the page's parts share: messages by kind (the latest is told again to whoever comes late), and a way to build
// elements. Words of visitors only ever become text, never HTML.
const bus = (window.shotstream ??= (() => {
  const latest = new Map();
  const ears = new Map();
  return {
    on(kind, ear) {
      if (!ears.has(kind)) ears.set(kind, []);
      ears.get(kind).push(ear);
      if (latest.has(kind)) ear(latest.get(kind));
    },
    tell(kind, what) {
      latest.set(kind, what);
      for (const ear of ears.get(kind) ?? []) ear(what);
    },
    act: async () => ({}), // the screen puts its line to the server here
    trigger: () => {},
  };
})());

function make(tag, options = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (name in made && typeof value !== "string") made[name] = value;
    else if (name === "text") made.textContent = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child != null));
  return made;
}

// Each shot has its own tint and its own hatch, so that it is told from the others without colour as well.
function shotMark(number) {
  const hue = (number * 137.5) % 360;
  const angle = (number * 40) % 180;
  return (
    `repeating-linear-gradient(${angle}deg, hsl(${hue} 45% 55%) 0 3px, hsl(${hue} 45% 68%) 3px 6px)`
  );
}

const boxOf = (id) => document.querySelector(`#${id} textarea, #${id} input`);

function typeInto(id, text) {
  const box = boxOf(id);
  if (!box) return;
  box.value = text;
  box.dispatchEvent(new Event("input", { bubbles: true }));
}
