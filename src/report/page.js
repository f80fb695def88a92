"use strict";
const all = (where, what) => [...where.querySelectorAll(what)];
const make = (tag, fields = {}, ...inside) => {
  const element = Object.assign(document.createElement(tag), fields);
  element.append(...inside);
  return element;
};
const button = (text, title, onclick) => make("button", {type: "button", textContent: text, title, onclick});

// A box to tick for each of some things, to be unfolded. `change` is called with a thing and whether it is ticked.
function choice(title, things, name, ticked, change) {
  const boxes = things.map(thing => {
    const box = make("input", {type: "checkbox", checked: ticked(thing)});
    box.onchange = () => change(thing, box.checked, boxes);
    return box;
  });
  const labels = things.map((thing, i) => make("label", {}, boxes[i], name(thing)));
  return make("details", {}, make("summary", {textContent: title}), ...labels);
}

// Click a heading, or press Enter on it, to sort: highest first, then lowest first. A table whose cells say what they are sorted
// by (data-order) goes by that, and cells that do not say stay last; any other, and the names, by numbers where they are, else text.
function sortable(table) {
  const headings = [...table.tHead.rows[0].cells], ordered = table.querySelector("[data-order]") !== null;
  headings.forEach(heading => (heading.tabIndex = 0, heading.onkeydown = e => e.key === "Enter" && heading.click()));
  headings.forEach((heading, column) => heading.addEventListener("click", () => {
    const falling = heading.ariaSort !== "descending", sign = falling ? -1 : 1;
    headings.forEach(h => h.removeAttribute("aria-sort"));
    heading.ariaSort = falling ? "descending" : "ascending";
    const text = cell => cell.textContent.replace("\u2212", "-");
    const value = row => ordered && column ? row.cells[column].dataset.order : text(row.cells[column]);
    const number = text => Number.parseFloat(text.replace(/^[[+]/, ""));
    const compare = (a, b) => number(a) - number(b) || a.localeCompare(b, undefined, {numeric: true});
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      return x === undefined || y === undefined ? (x === undefined) - (y === undefined) : sign * compare(x, y);
    });
    table.tBodies[0].append(...rows);
  }));
}

// What is shown of a table, in its present order.
const shownCells = table => [...table.rows].map(row =>
  [...row.cells].filter(cell => !cell.hidden).map(cell => cell.textContent.trim().replaceAll("\u2212", "-").replaceAll("\u00a0", " ")));
function csv(table) {
  const quoted = cell => /[",\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell;
  return shownCells(table).map(row => row.map(quoted).join(",") + "\n").join("");
}
function markdown(table) {
  const escaped = cell => cell.replace(/[|\\`*<]/g, "\\$&");
  const [headings, ...rows] = shownCells(table).map(row => `| ${row.map(escaped).join(" | ")} |\n`);
  return `${headings}|---|${"---:|".repeat(shownCells(table)[0].length - 1)}\n${rows.join("")}`;
}

async function copy(text, from) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // A page that was opened from a disk may not be let near the clipboard.
    const area = make("textarea", {value: text});
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  const word = from.textContent;
  from.textContent = "copied";
  setTimeout(() => from.textContent = word, 1200);
}

function tableTools(table) {
  const headings = [...table.tHead.rows[0].cells], columns = headings.map((_, i) => i).slice(1);
  const show = (column, shown) => [...table.rows].forEach(row => row.cells[column].hidden = !shown);
  const extra = column => "extra" in headings[column].dataset;
  columns.filter(extra).forEach(column => show(column, false));
  const tools = make("div", {className: "tools"});
  if (columns.length > 3)
    tools.append(choice("Columns", columns, i => headings[i].textContent, i => !extra(i), show));
  tools.append(
    button("Copy CSV", "Copies what is shown as comma-separated values", e => copy(csv(table), e.target)),
    button("Copy Markdown", "Copies what is shown as a Markdown table", e => copy(markdown(table), e.target)));
  table.closest(".scroll").before(tools);
}

// The legend of the lines that are shown, placed as the program places it.
function placeLegend(svg) {
  const keys = all(svg, ".key"), shown = keys.filter(key => !key.hasAttribute("display"));
  let x = 0, y = svg.legend ??= Number(keys[0].getAttribute("transform").match(/,([\d.]+)/)[1]), tallest = 0;
  for (const key of shown) {
    const {width, height} = key.getBBox();
    if (x && x + width > 440) [x, y, tallest] = [0, y + tallest, 0];
    key.setAttribute("transform", `translate(${x},${y})`);
    [x, tallest] = [x + width + 16, Math.max(tallest, height + 4)];
  }
  svg.setAttribute("viewBox", `0 0 440 ${Math.ceil(y + tallest - 11)}`);
}

const MOST_LINES = 8;
function lineChoice(svg) {
  const lines = all(svg, "g[data-series]:not(.key)");
  if (lines.length <= MOST_LINES) return [];
  const parts = line => all(svg, `g[data-series="${line.dataset.series}"]`);
  const isShown = line => !line.hasAttribute("display");
  const name = line => all(svg, `.key[data-series="${line.dataset.series}"] text`).map(text => text.textContent).join("");
  const full = boxes => boxes.forEach(box => box.disabled = !box.checked && lines.filter(isShown).length >= MOST_LINES);
  const chooser = choice(`Lines (${lines.length}, ${MOST_LINES} at once)`, lines, name, isShown, (line, shown, boxes) => {
    parts(line).forEach(part => shown ? part.removeAttribute("display") : part.setAttribute("display", "none"));
    full(boxes);
    placeLegend(svg);
  });
  full(all(chooser, "input"));
  return [chooser];
}

// The drawing alone, as a file: in the colours of its attributes, on white paper.
function standalone(svg) {
  const clone = svg.cloneNode(true), [, , width, height] = svg.getAttribute("viewBox").split(" ");
  all(clone, "[display=none]").forEach(part => part.remove());
  clone.setAttribute("width", width);
  clone.setAttribute("height", height);
  const paper = document.createElementNS(svg.namespaceURI, "rect");
  Object.entries({width, height, fill: "#fff"}).forEach(([name, value]) => paper.setAttribute(name, value));
  clone.querySelector("title").after(paper);
  return new XMLSerializer().serializeToString(clone);
}

function png(svg, scale) {
  return new Promise((done, failed) => {
    const image = new Image(), [, , width, height] = svg.getAttribute("viewBox").split(" ").map(Number);
    image.onload = () => {
      const canvas = make("canvas", {width: scale * width, height: scale * height});
      canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
      done(canvas);
    };
    image.onerror = failed;
    image.src = "data:image/svg+xml;charset=utf-8," + encodeURIComponent(standalone(svg));
  });
}

function save(blob, title, ending) {
  const url = URL.createObjectURL(blob);
  const link = make("a", {download: title.replace(/[^\w.-]+/g, "-") + ending});
  link.href = url;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

// The value nearest to the pointer stands beside it. The browser's own words under the pointer would come late and cover it.
const readout = make("div", {className: "readout", hidden: true});
function showValues(svg) {
  for (const title of all(svg, "path > title, rect > title")) {
    title.parentNode.dataset.value = title.textContent;
    title.remove();
  }
  svg.onpointerleave = () => readout.hidden = true;
  svg.onpointermove = svg.onpointerdown = event => {
    let best = null, least = 30;
    for (const shape of all(svg, "[data-value]")) {
      const box = shape.getBoundingClientRect(); // of no size where it is hidden
      const away = (at, low, high) => Math.max(low - at, at - high, 0);
      const distance = box.width && Math.hypot(away(event.clientX, box.left, box.right), away(event.clientY, box.top, box.bottom));
      if (box.width && distance < least) [best, least] = [shape, distance];
    }
    readout.hidden = !best;
    if (!best) return;
    readout.textContent = best.dataset.value;
    const left = Math.min(event.clientX + 12, innerWidth - readout.offsetWidth - 8);
    readout.style.left = `${Math.max(8, left)}px`;
    readout.style.top = `${event.clientY > 60 ? event.clientY - readout.offsetHeight - 10 : event.clientY + 16}px`;
  };
}

function figureTools(figure) {
  const svg = figure.querySelector("svg"), title = svg.querySelector("title").textContent;
  showValues(svg);
  figure.append(make("div", {className: "tools"}, ...lineChoice(svg),
    button("SVG", "Downloads the drawing", () => save(new Blob([standalone(svg)], {type: "image/svg+xml"}), title, ".svg")),
    button("PNG", "Downloads the drawing as an image", async () => (await png(svg, 3)).toBlob(blob => save(blob, title, ".png")))));
}

// Curves of a training: the axis along which they lie, and how much they are smoothed, by a running mean that forgets.
function curveTools(curves) {
  const axes = all(curves, "[data-axis]");
  const pick = axes.length > 1 ? axes.map((axis, i) => make("label", {},
    make("input", {type: "radio", name: "axis", checked: !i, onchange: () => axes.forEach(other => other.hidden = other !== axis)}),
    axis.dataset.axis)) : [];
  axes.forEach((axis, i) => axis.hidden = i > 0);
  const slider = make("input", {type: "range", min: 0, max: 0.99, step: 0.01, value: 0});
  slider.oninput = () => all(curves, "g[data-series]:not(.key) polyline:not(.smooth)").forEach(line => smooth(line, Number(slider.value)));
  curves.prepend(make("div", {className: "tools"}, ...pick, make("label", {}, "smoothing ", slider)));
}

// Draws a smoothed line over the pale line of the values. A place on the page is linear in the value, so that places can be averaged.
function smooth(line, forgotten) {
  const group = line.closest("g[data-series]");
  all(group, ".smooth").forEach(earlier => earlier.remove());
  all(group, ".curve, .marker").forEach(part => part.classList.toggle("pale", forgotten > 0));
  if (!forgotten) return;
  let mean = 0, weight = 0;
  const points = line.getAttribute("points").split(" ").map(point => {
    const [x, y] = point.split(",").map(Number);
    [mean, weight] = [forgotten * mean + (1 - forgotten) * y, forgotten * weight + 1 - forgotten];
    return `${x},${mean / weight}`;
  });
  const over = line.cloneNode();
  over.classList.remove("pale");
  over.classList.add("smooth");
  over.setAttribute("points", points.join(" "));
  line.after(over);
}

all(document, "table").forEach(table => (sortable(table), tableTools(table)));
all(document, "figure").forEach(figureTools);
all(document, ".curves").forEach(curveTools);
document.body.append(readout);
