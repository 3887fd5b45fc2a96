"use strict";
// Draws what kv-check found. Everything that comes from a history goes into the page as text, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const NAME_WIDTH = 92, LANE_HEIGHT = 30, BAR_HEIGHT = 22, TOP = 22, BOTTOM = 8;
let zoom = 1, isByTime = false, group = data.groups[0];
const byId = (id) => document.getElementById(id);

function html(tag, text, name) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (name) made.className = name;
  return made;
}

function svg(tag, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

const ms = (ns) => (ns / 1e6).toFixed(3) + " ms";
const at = (place, time) => (data.timed ? ms(time) : data.unit + " " + place);

// Where the events are drawn: in their order with equal distances, or true to time.
function scale() {
  const events = new Map();
  for (const bar of group.bars) {
    events.set(bar.begin, bar.begin_time);
    if (bar.end !== null) events.set(bar.end, bar.end_time);
  }
  const places = [...events.keys()].sort((one, other) => one - other);
  const shown = byId("chart").clientWidth - NAME_WIDTH - 40;
  const width = zoom * Math.max(shown, isByTime ? 0 : places.length * 30);
  const first = events.get(places[0]) ?? 0;
  const span = Math.max((events.get(places[places.length - 1]) ?? 0) - first, 1);
  const x = new Map(places.map((place, rank) => {
    const part = isByTime ? (events.get(place) - first) / span : (rank + 0.5) / places.length;
    return [place, part * width];
  }));
  return { x, places, events, width, right: width + 30 };
}

// The place of a moment that need not be the event of a bar.
function between(scaled, place) {
  const next = scaled.places.find((known) => known >= place);
  return next === undefined ? scaled.right - 10 : scaled.x.get(next);
}

function drawBar(bar, number, scaled) {
  const names = ["bar", bar.outcome];
  if (bar.window) names.push("window");
  if (bar.culprit) names.push("culprit");
  const begin = scaled.x.get(bar.begin), isOpen = bar.end === null;
  const end = isOpen ? scaled.right - 10 : scaled.x.get(bar.end);
  const y = TOP + bar.lane * LANE_HEIGHT + (LANE_HEIGHT - BAR_HEIGHT) / 2;
  const drawn = svg("g", { class: names.join(" "), tabindex: 0, "data-bar": number });
  const width = Math.max(end - begin, 4);
  drawn.append(svg("rect", { x: begin, y, width, height: BAR_HEIGHT, rx: isOpen ? 0 : 4 }));
  if (isOpen) drawn.append(svg("text", { x: end + 1, y: y + 15, class: "open" }, "…"));
  const label = bar.text + (bar.result ? " → " + bar.result : "");
  const fits = Math.floor((width - 8) / 6.4);
  // What was asked without arguments says less than what came of it.
  const brief = bar.text.includes(" ") || !bar.result ? bar.text : bar.result;
  if (fits > 2) {
    const fitting = label.length > fits ? brief : label;
    const short = fitting.length > fits ? fitting.slice(0, fits - 1) + "…" : fitting;
    drawn.append(svg("text", { x: begin + 5, y: y + 15 }, short));
  }
  drawn.append(svg("title", {}, label));
  drawn.addEventListener("mouseenter", () => relate(number));
  drawn.addEventListener("focus", () => relate(number));
  drawn.addEventListener("mouseleave", () => relate(null));
  drawn.addEventListener("blur", () => relate(null));
  return drawn;
}

function drawAxis(scaled, height) {
  const axis = svg("g", { class: "axis" });
  let last = -Infinity;
  for (const place of scaled.places) {
    const x = scaled.x.get(place);
    if (x - last < 110) continue;
    last = x;
    axis.append(svg("line", { x1: x, x2: x, y1: TOP - 4, y2: height - BOTTOM, class: "lane" }));
    axis.append(svg("text", { x, y: 12 }, at(place, scaled.events.get(place))));
  }
  return axis;
}

function drawFaults(scaled, height) {
  const bands = svg("g", {});
  const first = scaled.places[0], last = scaled.places[scaled.places.length - 1];
  for (const fault of data.faults) {
    if (fault.begin > last || (fault.end !== null && fault.end < first)) continue;
    const begin = between(scaled, fault.begin);
    const end = fault.end === null ? scaled.right - 10 : between(scaled, fault.end);
    const band = svg("rect", { x: begin, y: TOP, width: Math.max(end - begin, 3), height: height - TOP, class: "fault" });
    band.append(svg("title", {}, fault.kind));
    bands.append(band, svg("text", { x: begin + 3, y: height - 10, class: "lane-name" }, fault.kind));
  }
  return bands;
}

function drawChart() {
  const chart = byId("chart"), scaled = scale();
  const height = TOP + group.lanes.length * LANE_HEIGHT + BOTTOM + (data.faults.length ? 14 : 0);
  const picture = svg("svg", { width: scaled.right, height, role: "img", "aria-label": "operations over time" });
  picture.append(drawFaults(scaled, height), drawAxis(scaled, height));
  const names = svg("svg", { width: NAME_WIDTH, height, class: "names" });
  group.lanes.forEach((lane, row) => {
    const y = TOP + row * LANE_HEIGHT;
    picture.append(svg("line", { x1: 0, x2: scaled.right, y1: y, y2: y, class: "lane" }));
    names.append(svg("line", { x1: 0, x2: NAME_WIDTH, y1: y, y2: y, class: "lane" }));
    names.append(svg("text", { x: 8, y: y + 19, class: "lane-name" }, lane));
  });
  group.bars.forEach((bar, number) => picture.append(drawBar(bar, number, scaled)));
  chart.replaceChildren(names, picture);
  const mark = group.bars.find((bar) => bar.culprit);
  if (mark) chart.scrollLeft = scaled.x.get(mark.begin) - (chart.clientWidth - NAME_WIDTH) / 2;
}

// How two operations stand to each other in real time.
function relation(one, other) {
  if (other.end !== null && other.end < one.begin) return "before";
  if (one.end !== null && one.end < other.begin) return "after";
  return "beside";
}

function relate(number) {
  const chart = byId("chart");
  chart.classList.toggle("relating", number !== null);
  if (number === null) return;
  const chosen = group.bars[number], counts = { before: 0, after: 0, beside: 0 };
  for (const drawn of chart.querySelectorAll(".bar")) {
    const other = Number(drawn.dataset.bar);
    drawn.classList.remove("before", "after", "beside", "chosen");
    const kind = other === number ? "chosen" : relation(chosen, group.bars[other]);
    if (kind in counts) counts[kind] += 1;
    drawn.classList.add(kind);
  }
  const end = chosen.end === null ? "still open at the end" : "completed at " + at(chosen.end, chosen.end_time);
  const part = chosen.culprit ? "The culprit: no order includes it. " : chosen.window ? "Part of the reason. " : "";
  const place = chosen.position === null ? "" : "Number " + (chosen.position + 1) + " in the order that was found. ";
  byId("detail").textContent = group.lanes[chosen.lane] + ": " + chosen.text + " → " + chosen.result + "\n" +
    "invoked at " + at(chosen.begin, chosen.begin_time) + ", " + end + "\n" + part + place + "Drawn here: " +
    counts.before + " completed before it began, " + counts.after + " began after it completed, " +
    counts.beside + " ran beside it.";
}

function drawWindow() {
  const place = byId("window"), bars = group.bars.filter((bar) => bar.window);
  place.replaceChildren();
  for (const cycle of group.cycles) drawCycle(cycle, place);
  if (bars.length === 0) return;
  const table = html("table");
  table.append(html("caption", group.caption));
  const head = html("tr");
  for (const name of ["who", "operation", "result", "invoked", "completed"]) head.append(html("th", name));
  table.append(head);
  for (const bar of bars) {
    const row = html("tr", undefined, bar.culprit ? "culprit" : "");
    row.append(html("td", (bar.culprit ? "▶ " : "") + group.lanes[bar.lane]), html("td", bar.text), html("td", bar.result));
    row.append(html("td", at(bar.begin, bar.begin_time), "number"));
    row.append(html("td", bar.end === null ? "never" : at(bar.end, bar.end_time), "number"));
    row.addEventListener("mouseenter", () => relate(group.bars.indexOf(bar)));
    row.addEventListener("mouseleave", () => relate(null));
    table.append(row);
  }
  place.append(table);
}

// A cycle as dots on a circle, with an arrow from each to the next one.
function drawCycle(cycle, place) {
  place.append(html("h3", cycle.title));
  for (const sentence of cycle.sentences) place.append(html("p", sentence));
  const count = cycle.nodes.length;
  if (count < 2 || count > 12) return;
  const size = 240, middle = size / 2, radius = 80;
  const picture = svg("svg", { width: size, height: size, class: "cycle", role: "img", "aria-label": cycle.title });
  const marker = svg("marker", { id: "tip", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 8, markerHeight: 8, orient: "auto" });
  marker.append(svg("path", { d: "M0 0L8 4L0 8z" }));
  picture.append(marker);
  const point = (turn, away) => {
    const angle = (turn / count) * 2 * Math.PI - Math.PI / 2;
    return [middle + away * Math.cos(angle), middle + away * Math.sin(angle)];
  };
  cycle.nodes.forEach((node, turn) => {
    const [x1, y1] = point(turn + 0.22, radius), [x2, y2] = point(turn + 0.78, radius);
    const [cx, cy] = point(turn + 0.5, radius * 1.15);
    picture.append(svg("path", { d: `M${x1} ${y1}Q${cx} ${cy} ${x2} ${y2}`, "marker-end": "url(#tip)" }));
    const [x, y] = point(turn, radius);
    picture.append(svg("circle", { cx: x, cy: y, r: 17 }), svg("text", { x, y: y + 4, "text-anchor": "middle" }, node));
  });
  place.append(picture);
}

function show() {
  byId("about").replaceChildren(...group.sentences.map((sentence) => html("p", sentence)));
  byId("detail").textContent = group.bars.length
    ? "Point at an operation to see what completed before it, what began after it, and what ran beside it." : "";
  drawChart();
  drawWindow();
}

function legend() {
  const marks = [["--culprit", "culprit"], ["--window", "part of the reason"], ["--before", "before"], ["--beside", "beside"],
    ["--after", "after the one pointed at"]];
  if (data.faults.length) marks.push(["--fault", "fault"]);
  for (const [color, text] of marks.slice(data.verdict === "violated" ? 0 : 2)) {
    const item = html("span", undefined, "legend"), square = html("i");
    square.style.background = `var(${color})`;
    item.append(square, text);
    byId("legend").append(item, " ");
  }
}

document.title = "kv-check: " + data.headline;
byId("verdict").textContent = data.headline;
byId("verdict").className = data.verdict;
byId("summary").replaceChildren(...data.summary.map((line) => html("p", line, "soft")));
data.groups.forEach((known, number) => {
  const option = html("option", known.mark + known.name);
  option.value = number;
  byId("group").append(option);
});
byId("group").addEventListener("change", (event) => { group = data.groups[Number(event.target.value)]; show(); });
byId("scale").hidden = !data.timed;
byId("scale").addEventListener("click", (event) => {
  isByTime = !isByTime;
  event.target.setAttribute("aria-pressed", isByTime);
  drawChart();
});
byId("in").addEventListener("click", () => { zoom = Math.min(zoom * 1.5, 40); drawChart(); });
byId("out").addEventListener("click", () => { zoom = Math.max(zoom / 1.5, 0.2); drawChart(); });
window.addEventListener("resize", drawChart);
legend();
if (group) show();
