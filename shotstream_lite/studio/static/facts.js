// What is true of the model and the machine, and how fast the latest shot was.
const list = element.querySelector(".facts");
let known = {};
let latest = null;
let latency = null;

const bytes = (n) => (n > 1e9 ? `${(n / 2 ** 30).toFixed(1)} GiB` : `${Math.round(n / 2 ** 20)} MiB`);
const count = (n) => (n > 1e8 ? `${(n / 1e9).toFixed(1)} B` : `${(n / 1e6).toFixed(1)} M`);

function render() {
  const rows = [
    ["model", known.model && `${known.model}, ${count(known.parameters)} parameters`],
    ["device", known.device],
    ["attention", known.attention],
    ["memory used", known.memory_used && `${bytes(known.memory_used)} of ${bytes(known.memory_there)}`],
    ["weights and caches", known.memory_needed && bytes(known.memory_needed)],
    ["press to picture", latency && `${latency.toFixed(2)} s`],
    ["first frame made in", latest?.first_frame_seconds && `${latest.first_frame_seconds.toFixed(2)} s`],
    ["frames a second", latest?.fps && `${latest.fps.toFixed(0)} decoded`],
    ["without decoding", latest?.model_fps && `${latest.model_fps.toFixed(0)}`],
    ["pages open", known.pages > 1 && known.pages],
  ];
  const shown = rows.filter(([, value]) => value);
  list.replaceChildren(...shown.map(([name, value]) => make("div", {}, make("dt", { text: name }), make("dd", { text: String(value) }))));
}

bus.on("facts", (message) => ((known = message), render()));
bus.on("latency", (seconds) => ((latency = seconds), render()));
bus.on("card", (card) => ((latest = card), render()));
