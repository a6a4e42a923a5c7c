// The status page: models, their rates, and a form to try one. Text from the server is only ever set as text.
"use strict";

const EVERY = 1000; // milliseconds between looks at the server
const MOST_SHOWN = 400; // numbers of an output as text
const COLOURS = ["#2f6fb7", "#d9822b", "#218739", "#9b59b6", "#c0392b", "#16a085", "#7f8c8d", "#b7950b"];
let token = "";
let before = null; // the last status, for rates
const shown = new Map(); // name of a model -> its section

const byId = (id) => document.getElementById(id);
const headers = () => (token ? { Authorization: `Bearer ${token}` } : {});

async function ask(path, options = {}) {
  const answer = await fetch(path, { ...options, headers: { ...headers(), ...options.headers }, cache: "no-store" });
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) {
    throw Object.assign(new Error(found.error || `status ${answer.status}`), { status: answer.status });
  }
  return found;
}

function say(text, kind) {
  byId("state").textContent = text;
  byId("state").className = kind;
}

async function look() {
  try {
    const status = await ask("status");
    byId("login").hidden = true;
    byId("version").textContent = status.version;
    say(status.ready ? `ready, up ${duration(status.uptime)}` : "shutting down", status.ready ? "good" : "bad");
    for (const model of status.models) {
      if (!shown.has(model.name)) shown.set(model.name, section(model));
      const last = before && before.models.find((one) => one.name === model.name);
      rates(shown.get(model.name), model, last, before ? status.uptime - before.uptime : 0);
    }
    before = status;
  } catch (error) {
    before = null;
    if (error.status === 401) byId("login").hidden = false;
    say(error.status ? error.message : "no connection", "bad");
  }
  setTimeout(look, EVERY);
}

function duration(seconds) {
  const s = Math.floor(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
}

const number = (x) => (x === null ? "-" : x.toLocaleString("en", { maximumSignificantDigits: 3 }));
const seconds = (x) => (x === null ? "-" : x < 1e-3 ? `${number(x * 1e6)} µs` : x < 1 ? `${number(x * 1e3)} ms` : `${number(x)} s`);

function rates(place, now, last, passed) {
  const rate = (key) => (last && passed > 0 ? number((now[key] - last[key]) / passed) : "-");
  const cells = [
    ["requests/s", rate("completed")],
    ["rows/s", rate("rows")],
    ["steps/s", rate("steps")],
    ["half within", seconds(now.p50)],
    ["99 % within", seconds(now.p99)],
    ["waiting", number(now.queue_depth)],
    ["sequences", number(now.sequences)],
    ["answered", number(now.completed)],
    ["refused or failed", number(now.rejected + now.failed + now.expired)],
  ];
  place.querySelector(".rates").replaceChildren(
    ...cells.map(([name, value]) => {
      const cell = document.createElement("div");
      cell.append(text("dt", name), text("dd", value));
      return cell;
    }),
  );
}

function text(tag, content) {
  const found = document.createElement(tag);
  found.textContent = content;
  return found;
}

const sizes = (shape) => `[${shape.map((size) => (size < 0 ? "any" : size)).join(", ")}]`;

function section(model) {
  const place = byId("model").content.firstElementChild.cloneNode(true);
  place.dataset.model = model.name;
  place.querySelector("h2").textContent = model.name;
  const rows = place.querySelector("tbody");
  for (const [kind, entries] of [["in", model.inputs], ["out", model.outputs]]) {
    for (const entry of entries) {
      const optional = entry.parameters && entry.parameters.optional ? " (optional)" : "";
      const row = document.createElement("tr");
      row.append(...[kind, entry.name + optional, entry.datatype, sizes(entry.shape)].map((one) => text("td", one)));
      rows.append(row);
    }
  }
  const fields = model.inputs.map((entry) => input(entry));
  place.querySelector(".inputs").append(...fields.map((field) => field.place));
  place.querySelector("form").addEventListener("submit", (event) => {
    event.preventDefault();
    run(model, place, fields);
  });
  byId("models").append(place);
  return place;
}

function input(entry) {
  const place = byId("input").content.firstElementChild.cloneNode(true);
  const optional = Boolean(entry.parameters && entry.parameters.optional);
  const shape = place.querySelector(".shape");
  const data = place.querySelector(".data");
  const use = place.querySelector(".use");
  place.dataset.input = entry.name;
  place.querySelector("legend").textContent = `${entry.name} ${entry.datatype} ${sizes(entry.shape)}`;
  let free = 0;
  shape.value = JSON.stringify(entry.shape.map((size) => (size >= 0 ? size : free++ === 0 ? 1 : 12)));
  use.hidden = !optional;
  const fill = () => {
    const count = JSON.parse(shape.value).reduce((all, size) => all * size, 1);
    data.value = JSON.stringify(Array.from({ length: count }, (_, i) => example(entry.datatype, i, optional)));
  };
  place.querySelector(".fill").addEventListener("click", () => {
    try {
      fill();
    } catch {
      shape.focus();
    }
  });
  fill();
  const given = () => !optional || use.querySelector("input").checked;
  const show = () => place.classList.toggle("left-out", !given());
  use.addEventListener("change", show);
  show();
  const value = () => ({ name: entry.name, datatype: entry.datatype, shape: JSON.parse(shape.value), data: JSON.parse(data.value) });
  return { place, given, value };
}

function example(datatype, i, optional) {
  if (datatype === "BOOL") return true;
  if (datatype.startsWith("FP")) return Math.round(Math.sin(i / 2) * 1000) / 1000;
  return optional ? 1 : i % 2;
}

async function run(model, place, fields) {
  const error = place.querySelector(".error");
  const answers = place.querySelector(".answers");
  error.hidden = true;
  answers.replaceChildren();
  try {
    const body = JSON.stringify({ inputs: fields.filter((field) => field.given()).map((field) => field.value()) });
    const path = `v2/models/${encodeURIComponent(model.name)}/infer`;
    place.querySelector("pre").textContent =
      `curl ${token ? '-H "Authorization: Bearer $TOKEN" ' : ""}${new URL(path, location.href)} -d '${body}'`;
    const start = performance.now();
    const found = await ask(path, { method: "POST", body, headers: { "Content-Type": "application/json" } });
    place.querySelector(".took").textContent = seconds((performance.now() - start) / 1e3);
    answers.append(...found.outputs.flatMap(output));
  } catch (problem) {
    error.textContent = problem.message;
    error.hidden = false;
  }
}

function output(entry) {
  const found = [text("h3", `${entry.name} ${entry.datatype} ${sizes(entry.shape)}`)];
  const picture = chart(entry);
  if (picture) found.push(picture);
  const shown = entry.data.slice(0, MOST_SHOWN).map(entry.datatype === "FP32" ? shortest : String);
  const more = entry.data.length > MOST_SHOWN ? `, ... ${entry.data.length - MOST_SHOWN} more` : "";
  found.push(text("pre", shown.join(", ") + more));
  return found;
}

// The fewest digits that are this number again in 32 bits.
function shortest(value) {
  for (let digits = 6; digits < 9; digits++) {
    const text = Number(value.toPrecision(digits));
    if (Math.fround(text) === value) return String(text);
  }
  return String(Number(value.toPrecision(9)));
}

// The first row of (batch, time, channels) as a line for each of its first channels.
function chart(entry) {
  if (!entry.datatype.startsWith("FP") || entry.shape.length !== 3 || entry.shape[1] < 2 || !entry.data.length) return null;
  const [, steps, channels] = entry.shape;
  const most = Math.min(channels, COLOURS.length);
  const at = (t, c) => entry.data[t * channels + c];
  let low = Infinity;
  let high = -Infinity;
  for (let t = 0; t < steps; t++) {
    for (let c = 0; c < most; c++) {
      low = Math.min(low, at(t, c));
      high = Math.max(high, at(t, c));
    }
  }
  const drawn = (name, attributes) => {
    const one = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) one.setAttribute(key, value);
    return one;
  };
  const picture = drawn("svg", { viewBox: "0 0 1000 200", preserveAspectRatio: "none", role: "img", "aria-label": `${entry.name} over time` });
  for (let c = 0; c < most; c++) {
    const points = Array.from({ length: steps }, (_, t) => {
      const y = high > low ? 190 - (180 * (at(t, c) - low)) / (high - low) : 100;
      return `${(10 + (980 * t) / (steps - 1)).toFixed(1)},${y.toFixed(1)}`;
    });
    const line = { points: points.join(" "), fill: "none", stroke: COLOURS[c], "stroke-width": 2, "vector-effect": "non-scaling-stroke" };
    picture.append(drawn("polyline", line));
  }
  const figure = document.createElement("figure");
  figure.append(picture, text("figcaption", `${steps} steps, from ${Number(low.toPrecision(4))} to ${Number(high.toPrecision(4))}`));
  return figure;
}

byId("login").addEventListener("submit", (event) => {
  event.preventDefault();
  token = byId("token").value;
});
look();
