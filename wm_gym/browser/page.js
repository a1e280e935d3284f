// Sends what you do, draws what comes: a JSON text once, then binary frames (see frame.py).
"use strict";
const $ = (id) => document.getElementById(id);
const FPS = 50, WINDOW = 500; // steps a second, steps that the plots show
const ARROWS = { ArrowLeft: 0, KeyA: 0, ArrowRight: 1, KeyD: 1, ArrowUp: 2, KeyW: 2, ArrowDown: 3, KeyS: 3 };
const PLOTS = [ // key, title, decimals, unit, steps that are summed
  ["reward", "reward in a second", 1, "", FPS],
  ["speed", "speed", 0, " m/s", 1],
  ["gap", "gap: RMSE of z", 2, "", 1],
  ["spread", "mixture spread", 2, "", 1],
  ["end", "end probability", 3, "", 1],
];
let socket, fixed, now, drawn, drawnAt = [], past = [], otherFuture = [], fork = 0, notice = "", noticeIsError = false;
let byPointer = false, frameDue = false;
const down = [false, false, false, false];
const send = (...command) => { if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(command)); };
const float = (value) => Number(value);

// --- the connection

function connect() {
  socket = new WebSocket(`ws://${location.host}/drive`);
  socket.binaryType = "arraybuffer";
  socket.onmessage = ({ data }) => {
    if (data instanceof ArrayBuffer) return receive(data);
    const message = JSON.parse(data);
    if ("error" in message) say(message.error, true);
    else begin(message);
  };
  socket.onclose = ({ code }) => { // 1011: the server lives, but an error ended the session
    $("failed").hidden = !($("stopped").hidden = code === 1011);
    $("gone").hidden = false;
    document.body.classList.add("lost");
    $("rate").value = 0;
  };
}

function begin(description) {
  fixed = description;
  past = []; otherFuture = []; drawn = undefined;
  $("gone").hidden = true;
  document.body.classList.remove("lost");
  $("driver").replaceChildren(...fixed.drivers.map((name) => new Option(name, name)));
  $("start").max = fixed.starts.length - 1;
  showStart();
  [fixed.dream, fixed.real].forEach(([height, width], i) => {
    Object.assign($(`picture${i}`), { width, height });
    $(`picture${i}`).style.aspectRatio = `${fixed.real[1]} / ${fixed.real[0]}`;
  });
  $("branches").replaceChildren();
  $("latents").lastElementChild.replaceChildren(...fixed.reach.map(latentSlider));
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) send("pause", true);
}

function receive(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const figures = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const pixels = new Uint8Array(buffer, 4 + length), first = 3 * fixed.dream[0] * fixed.dream[1];
  if (now && (figures.clock < now.clock || figures.track !== now.track)) {
    const kept = figures.track === now.track && figures.clock > 0;
    otherFuture = kept ? past : [];
    fork = figures.clock;
    past = kept ? past.filter((each) => each.clock <= fork) : [];
  }
  const before = past.at(-1)?.clock === figures.clock ? past.pop() : null;
  past.push(before && figures.reward[0] === null ? before : figures);
  if (past.length > WINDOW + FPS + 1) past.shift();
  now = { ...figures, pictures: [pixels.subarray(0, first), pixels.subarray(first)] };
  if (!frameDue) { frameDue = true; requestAnimationFrame(draw); }
}

// --- pictures and figures

function draw() {
  frameDue = false;
  now.pictures.forEach((rgb, i) => {
    const canvas = $(`picture${i}`), image = new ImageData(canvas.width, canvas.height), { data } = image;
    for (let from = 0, to = 0; from < rgb.length; to += 4) {
      data[to] = rgb[from++]; data[to + 1] = rgb[from++]; data[to + 2] = rgb[from++]; data[to + 3] = 255;
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
    $(`score${i}`).value = now.score[i].toFixed(1);
    canvas.closest("figure").classList.toggle("over", now.outcome[i] !== null);
  });
  drawnAt = [...drawnAt, performance.now()].filter((time, _, times) => time > times.at(-1) - 1000);
  $("rate").value = drawnAt.length;
  $("clock").value = `${(now.clock / FPS).toFixed(2)} s`;
  const [steering, gas, brake] = now.action;
  [-steering, steering, gas, brake].forEach((share, i) => {
    document.querySelector(`[data-pad="${i}"]`).style.setProperty("--share", Math.max(0, share).toFixed(2));
  });
  $("pause").firstChild.textContent = now.paused ? "Go on" : "Pause";
  for (const id of ["driver", "watched", "sampling", "temperature"]) {
    const shown = $(id).value, own = document.activeElement === $(id) && byPointer; // a hand is on it
    if (!own && shown !== String(now[id])) $(id).value = now[id];
  }
  $("temperature_value").value = now.temperature.toFixed(2);
  $("temperature").disabled = now.sampling === "mode";
  $("watched").disabled = now.driver === "you";
  note();
  drawBranches();
  if (!drawn || now.paused || now.clock % 3 === 0) { drawPlots(); drawLatents(); }
  drawn = now;
}

function note() {
  const seconds = (now.clock - now.parted) / FPS;
  set("note0", now.outcome[0] ? `The dream ${now.outcome[0]}.`
    : now.parted === null ? "began at a stored moment of another drive" : `dreamt for ${seconds.toFixed(1)} s`);
  set("note1", now.outcome[1] ? `The real car ${now.outcome[1]}.` : now.replay ? "drives back to the branch …" : `track ${now.track}`);
  const [dream, real] = now.outcome;
  const help = dream && real ? "Both are over: return to a branch, or take a track (R, N)."
    : dream ? "The dream is over: dream on from the real car (H), return to a branch, or go on without it."
    : real ? "The real drive is over: return to a branch, take a track (R, N), or go on without it."
    : now.parted === null ? "The dream began elsewhere: it and the real car share the actions alone."
    : now.driver === "you" ? `You drive. P gives the wheel back to ${fixed.drivers[1]}.`
    : `${now.driver} drives. Arrow keys, or the buttons below, take the wheel.`;
  if (drawn && drawn.clock !== now.clock && !noticeIsError) notice = "";
  set("status", notice || help);
  $("status").classList.toggle("error", noticeIsError);
}

function say(text, isError = false) {
  notice = text; noticeIsError = isError;
  if (now) note();
}

function set(id, text) { if ($(id).textContent !== text) $(id).textContent = text; }

function drawBranches() {
  const list = $("branches"), ids = now.branches.map(({ id }) => String(id));
  for (const item of [...list.children]) if (!ids.includes(item.dataset.id)) item.remove();
  for (const { id, clock, score } of now.branches.slice(list.children.length)) {
    const item = document.createElement("li"), picture = document.createElement("canvas");
    picture.width = $("picture0").width; picture.height = $("picture0").height;
    picture.getContext("2d").drawImage($("picture0"), 0, 0);
    picture.setAttribute("aria-hidden", "true");
    const text = document.createElement("span");
    text.append(`${(clock / FPS).toFixed(2)} s`, document.createElement("br"), `${score[0].toFixed(0)} | ${score[1].toFixed(0)}`);
    item.dataset.id = id;
    item.append(picture, text, ...[["Return", false], ["Other future", true]].map(([label, other]) => {
      const button = document.createElement("button");
      button.textContent = label;
      button.setAttribute("aria-label", `${label}, branch at ${(clock / FPS).toFixed(2)} seconds`);
      button.onclick = () => goBack(id, other);
      return button;
    }));
    list.append(item);
  }
  [...list.children].forEach((item, i) => { item.querySelector("button").dataset.key = i + 1; });
  list.hidden = ids.length === 0;
}

function drawPlots() {
  const style = getComputedStyle(document.documentElement);
  const colours = ["--dream", "--real"].map((name) => style.getPropertyValue(name));
  for (const [key, , decimals, unit, steps] of PLOTS) {
    const canvas = $(`plot_${key}`), dense = devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
    if (canvas.width !== Math.round(width * dense)) Object.assign(canvas, { width: width * dense, height: height * dense });
    const context = canvas.getContext("2d"), left = Math.max(0, now.clock - WINDOW);
    const lines = [0, 1].map((i) => series(past, key, i, steps)), pale = [0, 1].map((i) => series(otherFuture, key, i, steps).filter(([clock]) => clock >= fork));
    const seen = [...lines.flat(), ...pale.flat()].filter(([clock, value]) => value !== null && clock >= left && clock <= now.clock);
    const top = Math.max(...seen.map(([, value]) => value), 10 ** -decimals), bottom = Math.min(0, ...seen.map(([, value]) => value));
    const x = (clock) => ((clock - left) / WINDOW) * width, y = (value) => 4 + (1 - (value - bottom) / (top - bottom)) * (height - 8);
    context.setTransform(dense, 0, 0, dense, 0, 0);
    context.clearRect(0, 0, width, height);
    context.fillStyle = style.getPropertyValue("--line");
    context.fillRect(0, y(0), width, 1);
    if (key === "gap" && fixed.unrelated < top) for (let dash = 0; dash < width; dash += 8) context.fillRect(dash, y(fixed.unrelated), 4, 1);
    for (const [group, alpha] of [[pale, 0.35], [lines, 1]]) {
      group.forEach((line, i) => {
        context.globalAlpha = alpha; context.strokeStyle = colours[i]; context.lineWidth = 1.5;
        context.beginPath();
        let broken = true;
        for (const [clock, value] of line) {
          if (value === null || clock < left || clock > now.clock) { broken = true; continue; }
          context[broken ? "moveTo" : "lineTo"](x(clock), y(value));
          broken = false;
        }
        context.stroke();
      });
    }
    context.globalAlpha = 1;
    [0, 1].forEach((i) => {
      const value = lines[i].at(-1)?.[1] ?? null, output = $(`value_${key}${i}`);
      if (output) output.value = value === null ? "–" : value.toFixed(decimals) + unit;
    });
  }
}

function series(frames, key, i, steps) {
  const values = frames.map((each) => [each.clock, Array.isArray(each[key]) ? each[key][i] : i === 0 ? each[key] : null]);
  if (steps === 1) return values;
  let sum = 0;
  return values.map(([clock, value], at) => {
    sum += (value ?? 0) - (values[at - steps]?.[1] ?? 0);
    return [clock, value === null ? null : sum];
  });
}

function drawLatents() {
  if (!$("latents").open) return;
  document.querySelectorAll("#latents input").forEach((slider, i) => { if (!slider.held) slider.value = now.z[i]; });
}

function latentSlider(reach, index) {
  const label = document.createElement("label"), slider = document.createElement("input");
  Object.assign(slider, { type: "range", min: -reach, max: reach, step: "any", value: 0 });
  slider.setAttribute("aria-label", `Latent ${index}`);
  slider.onpointerdown = () => { slider.held = true; };
  slider.oninput = () => send("hold", index, float(slider.value));
  slider.onchange = slider.onpointerup = slider.onpointercancel = () => { slider.held = false; send("release", index); };
  label.append(String(index), slider);
  return label;
}

// --- what you do

function press(index, isDown) {
  if (down[index] === isDown) return;
  down[index] = isDown;
  send("press", ...down);
}

function letGo() {
  if (down.some(Boolean)) { down.fill(false); send("press", ...down); }
  say("");
}

function goBack(id, other) { say(""); send("go_back", id, other); }

function showStart() {
  const start = fixed.starts[$("start").value];
  $("start_kind").value = !start ? "none" : start.driving ? `mid-drive, ${start.tiles} tiles` : "an episode’s start";
}

const ACTIONS = {
  pause: () => send("pause", !now.paused),
  advance: () => send("advance"),
  branch: () => send("branch"),
  dream_on: () => send("dream_on"),
  restart: () => send("start_track", now.track),
  next: () => send("start_track", now.track + 1),
  start_dream: () => send("start_dream", Math.trunc(float($("start").value))),
};
const SHORTCUTS = { Space: "pause", Period: "advance", KeyB: "branch", KeyH: "dream_on", KeyR: "restart", KeyN: "next" };

for (const [id, act] of Object.entries(ACTIONS)) $(id).onclick = () => { say(""); act(); };
$("driver").onchange = () => send("drive", $("driver").value);
$("watched").onchange = () => send("watch", $("watched").value);
$("sampling").onchange = () => send("sample", now.temperature, $("sampling").value);
$("temperature").oninput = () => send("sample", float($("temperature").value), now.sampling);
$("start").oninput = showStart;
$("start").onkeydown = ({ key }) => { if (key === "Enter") $("start_dream").click(); };
$("reconnect").onclick = connect;

for (const button of document.querySelectorAll("[data-pad]")) {
  const index = Number(button.dataset.pad);
  button.onpointerdown = (event) => { button.setPointerCapture(event.pointerId); press(index, true); };
  button.onpointerup = button.onpointercancel = () => press(index, false);
  button.onkeydown = ({ code }) => { if (code === "Space" || code === "Enter") press(index, true); };
  button.onkeyup = button.onblur = () => press(index, false);
  button.oncontextmenu = (event) => event.preventDefault();
}

addEventListener("pointerdown", () => { byPointer = true; }, true);
addEventListener("change", ({ target }) => { if (byPointer && target.type !== "number") target.blur(); }); // arrows drive again
addEventListener("keydown", (event) => {
  byPointer = false;
  const { code, target } = event;
  if (code === "Escape") document.activeElement.blur();
  if (!now || event.ctrlKey || event.metaKey || event.altKey || target.matches("select, [type=number]")) return;
  if (code in ARROWS && !(code.startsWith("Arrow") && target.type === "range")) {
    event.preventDefault();
    press(ARROWS[code], true);
  } else if (event.repeat && code !== "Period") {
    return;
  } else if (code in SHORTCUTS && !(code === "Space" && target.matches("button, summary"))) {
    event.preventDefault();
    say("");
    ACTIONS[SHORTCUTS[code]]();
  } else if (code === "KeyP" && now.driver === "you") {
    send("drive", fixed.drivers[1]);
  } else if (/^Digit[1-9]$/.test(code)) {
    const branch = now.branches[Number(code[5]) - 1];
    if (branch) goBack(branch.id, event.shiftKey);
  }
});
addEventListener("keyup", ({ code }) => { if (code in ARROWS) press(ARROWS[code], false); });
addEventListener("blur", letGo);
document.addEventListener("visibilitychange", letGo);

document.querySelector(".plots").append(...PLOTS.map(([key, title]) => {
  const figure = document.createElement("figure");
  const pair = key === "reward" || key === "speed";
  if (key === "gap") figure.title = "The dashed line is the gap of two unrelated moments.";
  figure.innerHTML = `<figcaption>${title}<br><output id="value_${key}0" class="dream">–</output>` +
    `${pair ? `<output id="value_${key}1" class="real">–</output>` : ""}</figcaption>` +
    `<canvas id="plot_${key}" role="img" aria-label="${title}, over the last ten seconds"></canvas>`;
  return figure;
}));
if (innerWidth <= 600) $("latents").open = false;
connect();
