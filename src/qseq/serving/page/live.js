// The live page: one client as it is served. Whatever comes in is shown as text or pixels, never read as HTML.
"use strict";

const element = (id) => document.getElementById(id);
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const totals = [];
let socket = null;
let policy = null;

function connect() {
  socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/live`);
  socket.onopen = () => socket.send(JSON.stringify({ key: sessionStorage.getItem("key") || "" }));
  socket.onmessage = (event) => receive(JSON.parse(event.data));
  socket.onclose = () => {
    if (element("login").hidden) {
      element("status").textContent = "disconnected, trying again";
      setTimeout(connect, 1000);
    }
  };
}

function receive(message) {
  if (message.error) {
    element("status").textContent = message.error;
    element("login").hidden = false;
    return;
  }
  if (message.metadata) {
    element("status").textContent = "connected";
    policy = message.metadata;
    showPolicy();
  }
  if (message.clients) showClients(message.clients);
  if (message.action) showDecision(message);
}

function showPolicy() {
  const step = policy.step === null ? "" : `, step ${policy.step}`;
  element("policy").textContent = `${policy.algorithm}${step}, history ${policy.history}, horizon ${policy.horizon}`;
}

function showClients(clients) {
  const select = element("client");
  const wanted = ["", ...clients.map(String)];
  if (wanted.join() === [...select.options].map((option) => option.value).join()) return;
  const chosen = select.value;
  select.replaceChildren(...wanted.map((value) => new Option(value === "" ? "whichever asks" : value, value)));
  select.value = wanted.includes(chosen) ? chosen : "";
}

function showDecision(message) {
  element("status").textContent = `client ${message.client}, observation ${message.step} of its episode`;
  policy.step = message.policy_step;
  showPolicy();
  element("instruction").textContent = message.instruction || "nothing";
  const total = message.wait_ms + message.compute_ms;
  totals.push(total);
  totals.splice(0, totals.length - 120);
  element("timing").textContent =
    `${total.toFixed(1)} ms: ${message.wait_ms.toFixed(1)} waiting, ${message.compute_ms.toFixed(1)} deciding ` +
    `(${message.batch_size} together)`;
  drawLatency();
  showCameras(message.cameras);
  showFields(message.fields);
  showValues(message);
}

function showCameras(cameras) {
  for (const [name, picture] of Object.entries(cameras)) {
    const canvas = part("cameras", name, () => {
      const figure = document.createElement("figure");
      const caption = document.createElement("figcaption");
      caption.textContent = name;
      figure.append(document.createElement("canvas"), caption);
      return figure;
    }).querySelector("canvas");
    canvas.width = picture.width;
    canvas.height = picture.height;
    const bytes = atob(picture.rgb);
    const image = new ImageData(picture.width, picture.height);
    for (let pixel = 0; pixel < picture.width * picture.height; pixel += 1) {
      for (let channel = 0; channel < 3; channel += 1) {
        image.data[4 * pixel + channel] = bytes.charCodeAt(3 * pixel + channel);
      }
      image.data[4 * pixel + 3] = 255;
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
  }
}

function showFields(fields) {
  const list = element("fields");
  list.replaceChildren();
  for (const [name, numbers] of Object.entries(fields)) {
    const term = document.createElement("dt");
    const text = document.createElement("dd");
    term.textContent = name;
    text.textContent = numbers.join("  ");
    list.append(term, text);
  }
}

function showValues(message) {
  message.action.forEach((number, dimension) => {
    const box = part("values", String(dimension), () => {
      const made = document.createElement("div");
      const canvas = document.createElement("canvas");
      canvas.width = 480;
      canvas.height = 180;
      made.append(canvas, document.createElement("p"));
      return made;
    });
    const value = message.values[dimension];
    let text = `dimension ${dimension}: action ${number}`;
    if (value) {
      const best = value.scores[value.chosen];
      text += `, bin ${value.chosen} of ${value.scores.length}, Q ${best === null ? "none" : best}`;
      drawBars(box.querySelector("canvas"), value);
    }
    box.querySelector("p").textContent = text;
  });
}

function drawBars(canvas, value) {
  const known = value.scores.filter((score) => score !== null);
  const low = Math.min(...known);
  const span = Math.max(...known) - low || 1;
  const context = canvas.getContext("2d");
  const width = canvas.width / value.scores.length;
  context.clearRect(0, 0, canvas.width, canvas.height);
  value.scores.forEach((score, bin) => {
    if (score === null) return;
    const height = 4 + ((canvas.height - 4) * (score - low)) / span;
    context.fillStyle = color(bin === value.chosen ? "--best" : "--bar");
    context.fillRect(bin * width, canvas.height - height, Math.max(1, width - 1), height);
  });
}

function drawLatency() {
  const canvas = element("latency");
  const context = canvas.getContext("2d");
  const most = Math.max(...totals);
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.strokeStyle = color("--best");
  context.beginPath();
  totals.forEach((total, index) => {
    context.lineTo((index * canvas.width) / 120, canvas.height - 2 - ((canvas.height - 4) * total) / most);
  });
  context.stroke();
}

// The child of an element that shows `name`, made if there is none.
function part(id, name, make) {
  const parent = element(id);
  let found = [...parent.children].find((child) => child.dataset.name === name);
  if (!found) {
    found = make();
    found.dataset.name = name;
    parent.append(found);
  }
  return found;
}

element("client").onchange = (event) => {
  const chosen = event.target.value;
  element("values").replaceChildren();
  socket.send(JSON.stringify({ client: chosen === "" ? null : Number(chosen) }));
};

element("login").onsubmit = (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", element("key").value);
  element("key").value = "";
  element("login").hidden = true;
  connect();
};

connect();
