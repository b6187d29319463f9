const facts = JSON.parse(document.getElementById("facts").textContent);
const { height, width, levels, edges, classes, radii } = facts;
const count = height * width;
const at = (id) => document.getElementById(id);
const page = at("try"), board = at("board"), level = at("level");

// ---- test images ----
const stored = Uint8Array.from(atob(facts.images), (letter) => letter.charCodeAt(0));
const valueOf = (step) => Math.fround(step / levels);
const testImage = (place) => Float32Array.from(stored.subarray(place * count, (place + 1) * count), valueOf);

// ---- the image, and the pixel that keys and the slider change ----
let pixels = testImage(0);
let origin = null;  // the test image that was changed, if any
let chosen = 0;

const cellOf = (value) => {
  let cell = 0;
  while (cell + 2 < edges.length && value >= edges[cell + 1]) cell++;
  return cell;
};
const paint = (canvas, values) => {
  canvas.width = width;
  canvas.height = height;
  const picture = new ImageData(width, height);
  values.forEach((value, place) => picture.data.set([...Array(3).fill(Math.round(255 * value)), 255], 4 * place));
  canvas.getContext("2d").putImageData(picture, 0, 0);
};
const short = (value) => String(Number(value.toFixed(4)));
const pixelText = () => {
  const cell = cellOf(pixels[chosen]);
  const closes = cell + 2 === edges.length ? "]" : ")";
  return `row ${Math.floor(chosen / width) + 1}, column ${(chosen % width) + 1}: ${short(pixels[chosen])}, in the cell `
    + `[${short(edges[cell])}, ${short(edges[cell + 1])}${closes}`;
};
const sourceText = () => {
  if (origin === null) return "Drawn here; it is no test image.";
  const named = `test image ${facts.index[origin]}, labelled ${classes[facts.labels[origin]]}`;
  const original = testImage(origin);
  const changes = Array.from(pixels, (value, place) => Math.abs(value - original[place])).filter((change) => change > 0);
  if (!changes.length) return `Unchanged: ${named}.`;
  return `Changed: ${named}; ${changes.length} ${changes.length === 1 ? "pixel differs" : "pixels differ"}, by ${short(Math.max(...changes))} at most.`;
};
const show = () => {
  const cells = Array.from(pixels, cellOf);
  paint(at("image"), pixels);
  paint(at("lower"), cells.map((cell) => edges[cell]));
  paint(at("upper"), cells.map((cell) => edges[cell + 1]));
  showChosen();
  at("source").textContent = sourceText();
  at("undo").disabled = origin === null;
  for (const button of at("samples").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(Number(button.dataset.place) === origin));
  }
  page.dataset.pixels = JSON.stringify(Array.from(pixels));
  page.dataset.cells = JSON.stringify(cells);
  delete page.dataset.result;  // until the file has answered for these pixels
  answer();
};
const showChosen = () => {
  const box = at("cursor").style;
  [box.left, box.top] = [`${100 * (chosen % width) / width}%`, `${100 * Math.floor(chosen / width) / height}%`];
  [box.width, box.height] = [`${100 / width}%`, `${100 / height}%`];
  level.value = Math.round(pixels[chosen] * levels);
  at("pixel").textContent = pixelText();
  level.setAttribute("aria-valuetext", pixelText());
};
let byKeys = false;  // whether the image was last changed, or reached, by keys
const showCursor = () => {
  const isFocused = document.activeElement === level || (byKeys && document.activeElement === board);
  at("cursor").hidden = tool() !== "choose" && !isFocused;
};
const take = (place) => { origin = place; pixels = testImage(place); show(); };
const setChosen = (step) => { pixels[chosen] = valueOf(Math.min(levels, Math.max(0, step))); show(); };

// ---- the pen: a disc of 4 x 4 points a pixel along the way of the pointer ----
const POINTS = 4, PEN = 0.8 * Math.max(1, height / 14);
const tool = () => document.querySelector("[name=tool]:checked").value;
let stroke = null;
const pointOf = (event) => {
  const box = board.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width * width, (event.clientY - box.top) / box.height * height];
};
const mark = ([x0, y0], [x1, y1]) => {
  const [dx, dy] = [x1 - x0, y1 - y0], length = dx * dx + dy * dy || 1;
  for (let row = 0; row < height * POINTS; row++) {
    for (let column = 0; column < width * POINTS; column++) {
      const [x, y] = [(column + 0.5) / POINTS, (row + 0.5) / POINTS];
      const along = Math.min(1, Math.max(0, ((x - x0) * dx + (y - y0) * dy) / length));
      if (Math.hypot(x - x0 - along * dx, y - y0 - along * dy) <= PEN) stroke.mask[row * width * POINTS + column] = 1;
    }
  }
  const covered = new Uint8Array(count);
  stroke.mask.forEach((one, point) => {
    const [row, column] = [Math.floor(point / (width * POINTS)), point % (width * POINTS)];
    covered[Math.floor(row / POINTS) * width + Math.floor(column / POINTS)] += one;
  });
  covered.forEach((points, pixel) => {
    if (!points) return;
    const ink = Math.round(levels * points / POINTS ** 2), before = Math.round(levels * stroke.before[pixel]);
    pixels[pixel] = valueOf(stroke.erases ? Math.max(0, before - ink) : Math.max(before, ink));
  });
};
const choose = ([x, y]) => {
  const [row, column] = [Math.floor(y), Math.floor(x)].map((one, axis) => Math.min([height, width][axis] - 1, Math.max(0, one)));
  chosen = row * width + column;
  showChosen();
};
board.addEventListener("pointerdown", (event) => {
  if (event.button !== 0) return;
  event.preventDefault();
  byKeys = false;
  board.focus({ preventScroll: true });
  board.setPointerCapture(event.pointerId);
  if (tool() === "choose") return choose(pointOf(event));
  stroke = { mask: new Uint8Array(count * POINTS ** 2), before: pixels.slice(), erases: tool() === "erase", last: pointOf(event) };
  mark(stroke.last, stroke.last);
  show();
});
board.addEventListener("pointermove", (event) => {
  if (!stroke || !board.hasPointerCapture(event.pointerId)) return;
  for (const each of event.getCoalescedEvents?.().concat(event) ?? [event]) {
    const next = pointOf(each);
    mark(stroke.last, next);
    stroke.last = next;
  }
  show();
});
for (const end of ["pointerup", "pointercancel"]) board.addEventListener(end, () => { stroke = null; });

const MOVES = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
const step = () => Math.round(pixels[chosen] * levels);
const CHANGES = { "+": () => step() + 1, "=": () => step() + 1, "-": () => step() - 1, "\u2212": () => step() - 1, Delete: () => 0, Backspace: () => 0 };
board.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key in MOVES) {
    const [down, right] = MOVES[event.key];
    choose([(chosen % width) + right, Math.floor(chosen / width) + down]);
  } else if (event.key in CHANGES) {
    setChosen(CHANGES[event.key]());
  } else {
    return;
  }
  event.preventDefault();
});
page.addEventListener("keydown", () => { byKeys = true; showCursor(); });
page.addEventListener("keyup", () => { byKeys = true; });
for (const event of ["focusin", "focusout"]) page.addEventListener(event, () => requestAnimationFrame(showCursor));
for (const radio of document.querySelectorAll("[name=tool]")) radio.addEventListener("change", showCursor);
level.addEventListener("input", () => setChosen(Number(level.value)));
at("clear").addEventListener("click", () => { origin = null; pixels = new Float32Array(count); show(); });
at("undo").addEventListener("click", () => take(origin));

// ---- test images to choose: one of each class at a time ----
let turn = 0;
const offer = () => {
  at("samples").replaceChildren(...classes.flatMap((name, label) => {
    const own = facts.labels.flatMap((one, place) => one === label ? [place] : []);
    if (!own.length) return [];
    const place = own[turn % own.length], button = document.createElement("button"), canvas = document.createElement("canvas");
    button.type = "button";
    button.dataset.place = place;
    button.setAttribute("aria-label", `test image ${facts.index[place]}, labelled ${name}`);
    button.addEventListener("click", () => take(place));
    paint(canvas, testImage(place));
    button.append(canvas);
    const item = document.createElement("li");
    item.append(button);
    return [item];
  }));
  turn++;
};
at("others").addEventListener("click", () => { offer(); show(); });

// ---- the file's answers ----
let ort = null, session = null, isBusy = false, isStale = false;
const lowest = { value: 0 }, highest = { value: 1 };
const answer = async () => {
  if (!session) return;
  if (isBusy) { isStale = true; return; }
  isBusy = true;
  try {
    const asked = pixels.slice();
    const found = await session.run({ image: new ort.Tensor("float32", asked, [1, 1, height, width]) });
    if (asked.every((value, pixel) => value === pixels[pixel])) showAnswer(found);
    else isStale = true;
  } catch (error) {
    fail(`The file does not run here: ${error.message ?? error}`);
  } finally {
    isBusy = false;
  }
  if (isStale && session) { isStale = false; answer(); }
};
const below = (value) => {  // three decimals, rounded down: what is shown is a bound too
  const text = (Math.floor(value * 1000) / 1000).toFixed(3);
  return (value > 0 && Number(text) === 0 ? "above 0" : (value > 0 ? "+" : "") + text).replace("-", "\u2212");
};
const signed = (value) => (value > 0 ? "+" : "") + value.toFixed(2).replace("-", "\u2212");
const showAnswer = (found) => {
  const label = Number(found.label.data[0]), logits = Array.from(found.logits.data), margin = Array.from(found.margin.data);
  const certified = Array.from(found.certified.data, Boolean), largest = found.radius.data[0];
  const name = classes[label];
  at("label").textContent = name;
  const best = certified.lastIndexOf(true);
  at("said").textContent = best < 0
    ? `Label ${name}, not certified at any of these radii.`
    : `Label ${name}, certified up to radius ${radii[best]}: every image within ${radii[best]} of this one, pixel by pixel, gets ${name} too.`;
  at("verdicts").tBodies[0].replaceChildren(...radii.map((radius, column) => row(
    certified[column] ? "certified" : "open",
    [["th", radius], ["td", certified[column] ? "certified" : "not certified", "verdict"], ["td", below(margin[column]), "number"]],
  )));
  lowest.value = Math.min(lowest.value, ...logits);
  highest.value = Math.max(highest.value, ...logits);
  const share = (value) => 100 * (value - lowest.value) / (highest.value - lowest.value);
  at("logits").tBodies[0].replaceChildren(...logits.map((logit, one) => {
    const line = row(one === label ? "best" : "", [["th", classes[one]], ["td", ""], ["td", signed(logit), "number"]]);
    const track = document.createElement("div"), bar = document.createElement("span");
    track.className = "track";
    bar.style.left = `${share(Math.min(0, logit))}%`;
    bar.style.width = `${share(Math.max(0, logit)) - share(Math.min(0, logit))}%`;
    track.append(bar);
    line.cells[1].append(track);
    line.cells[1].setAttribute("aria-hidden", "true");
    return line;
  }));
  page.dataset.result = JSON.stringify({ label, logits, certified, margin, radius: largest });
};
const row = (kind, cells) => {
  const line = document.createElement("tr");
  if (kind) line.className = kind;
  for (const [tag, text, style] of cells) {
    const cell = document.createElement(tag);
    if (tag === "th") cell.scope = "row";
    const inner = style === "verdict" ? document.createElement("span") : cell;
    if (style) inner.className = style;
    inner.textContent = text;
    if (inner !== cell) cell.append(inner);
    line.append(cell);
  }
  return line;
};

// ---- loading: the file as it was when this page was written, and onnxruntime from the folder beside it ----
const fail = (reason, advice) => {
  session = null;
  page.dataset.state = "failed";
  at("notice").hidden = false;
  at("reason").textContent = reason;
  if (advice) at(advice).hidden = false;
  at("said").textContent = "No verdict: the file was not run.";
  at("label").textContent = "\u2013";
  for (const table of ["verdicts", "logits"]) at(table).tBodies[0].replaceChildren();
};
const loaded = async (address) => {
  const reply = await fetch(address);
  if (!reply.ok) throw new Error(`${address}: ${reply.status}`);
  return reply.arrayBuffer();
};
const start = async () => {
  if (location.protocol === "file:") return fail("This page has to be served.", "advice-serve");
  let model;
  try {
    model = await loaded(facts.guard);
  } catch (error) {
    return fail(`Cannot load ${facts.guard}: ${error.message}`);
  }
  if (!crypto.subtle) return fail("Serve this page from this machine, or over https: its checksums are computed there alone.");
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", model));
  if (Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("") !== facts.sha256) {
    return fail(`${facts.guard} is not the file that this page was written for; write both anew.`);
  }
  try {
    ort = await import(new URL(facts.script, location.href).href);
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.wasmPaths = { wasm: new URL(facts.wasm, location.href).href };
    ort.env.wasm.wasmBinary = await loaded(facts.wasm);
  } catch (error) {
    return fail(`onnxruntime for browsers is not here: ${error.message}`, "advice-web");
  }
  try {
    session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
  } catch (error) {
    return fail(`The file does not run here: ${error.message ?? error}`);
  }
  page.dataset.state = "ready";
  show();
};
offer();
take(Number(at("samples").querySelector("button").dataset.place));
start();
