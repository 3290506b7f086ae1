// Building elements. Words of visitors only ever become text, never HTML.
export const $ = (id) => document.getElementById(id);

export function make(tag, options = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (name === "text") made.textContent = value;
    else if (name in made && typeof value !== "string") made[name] = value;
    else if (value !== undefined && value !== false && value !== null) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child != null && child !== false));
  return made;
}

export function button(text, onclick, options = {}) {
  return make("button", { type: "button", text, onclick, ...options });
}

// Puts new children in, and the keyboard's focus and the typed words back to where they were.
export function renew(parent, ...children) {
  const active = parent.contains(document.activeElement) ? document.activeElement : null;
  const key = active?.dataset.key;
  const { value, selectionStart, selectionEnd } = active ?? {};
  parent.replaceChildren(...children.filter((child) => child != null && child !== false));
  if (!active) return;
  const again = key && parent.querySelector(`[data-key="${CSS.escape(key)}"]`);
  if (again && !again.disabled) {
    if (again.tagName === "TEXTAREA") again.value = value;
    again.focus({ preventScroll: true });
    if (again.tagName === "TEXTAREA") again.setSelectionRange(selectionStart, selectionEnd);
  } else (parent.querySelector("button:not(:disabled)") ?? document.getElementById("shot")).focus({ preventScroll: true });
}

// Each shot has its own tint and its own hatch, so that it is told from the others without colour as well.
export function shotMark(number) {
  const hue = (number * 137.5) % 360;
  const angle = (number * 40) % 180;
  return `repeating-linear-gradient(${angle}deg, hsl(${hue} 45% 55%) 0 3px, hsl(${hue} 45% 68%) 3px 6px)`;
}

export function download(name, blob) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}
