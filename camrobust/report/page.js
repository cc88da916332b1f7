"use strict";
const find = (selector, within = document) => [...within.querySelectorAll(selector)];

// Light and dark: what the system says, until the button is pressed.
const root = document.documentElement, theme = document.getElementById("theme");
const prefers = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (root.dataset.theme || (prefers.matches ? "dark" : "light")) === "dark";
const name = () => { theme.textContent = isDark() ? "Light" : "Dark"; };
theme.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; name(); });
prefers.addEventListener("change", name);
name();

// The leaderboard: filtered by its lists, sorted by the heading that was pressed.
const board = document.getElementById("board"), rows = find("tbody tr", board);
const filters = find("#filters select");
const filter = () => {
  for (const row of rows) row.hidden = filters.some(
    one => one.value && !JSON.parse(row.dataset[one.name]).includes(JSON.parse(one.value)));
  document.getElementById("shown").textContent = `${rows.filter(row => !row.hidden).length} of ${rows.length} rows`;
};
for (const one of filters) one.addEventListener("change", filter);
if (filters.length) filter();
const key = (row, place) => {
  const cell = row.cells[place];
  return cell.classList.contains("text") || cell.tagName === "TH" ? cell.textContent.trim()
    : cell.dataset.value === "" ? null : Number(cell.dataset.value);
};
const compare = (a, b) => a === null ? 1 : b === null ? -1 : typeof a === "string" ? a.localeCompare(b) : a - b;
find("thead th", board).forEach((heading, place) => heading.firstElementChild.addEventListener("click", () => {
  const before = heading.getAttribute("aria-sort"), text = heading.classList.contains("text");
  const sign = before === "descending" || (!before && (text || place === 0)) ? 1 : -1;
  for (const other of find("thead th", board)) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
  const known = rows.filter(row => key(row, place) !== null), unknown = rows.filter(row => key(row, place) === null);
  known.sort((a, b) => sign * compare(key(a, place), key(b, place)));
  board.tBodies[0].append(...known, ...unknown);
}));

// Figures: numbers come by column and are drawn as rows; as many panels side by side as there is room for.
const views = [];
// Vega-Lite writes the number of columns into two places; as a signal it can change when the page is printed.
const flexible = vega => {
  if (!vega.layout?.columns) return vega;
  vega.signals = [...(vega.signals || []), {name: "columns", value: vega.layout.columns}];
  vega.layout.columns = {signal: "columns"};
  for (const one of vega.data) if (one.name === "facet_domain_row")
    one.transform[0].stop.signal = 'ceil(length(data("facet_domain")) / columns)';
  return vega;
};
const unpack = columns => {
  const names = Object.keys(columns);
  return columns[names[0]].map((_, place) => Object.fromEntries(names.map(one => [one, columns[one][place]])));
};
const draw = (id, {specification, columns}) => {
  const figure = document.getElementById(id), place = figure.querySelector(".chart");
  const width = figure.clientWidth;
  const panel = specification.spec?.width + 20;  // with the gap to the next one; the names of rows stand left of all.
  if (specification.columns) specification.columns = Math.max(1, Math.min(4, Math.floor((width - 130) / panel)));
  const measure = units => JSON.stringify(specification.params || []).includes("pick_measure")
    ? {signal: `(${JSON.stringify(units)})[pick_measure]`} : "";
  const titled = part => {
    if (part === null || typeof part !== "object") return part;
    for (const [one, value] of Object.entries(part)) {
      if (one === "title" && value === "@measure") part[one] = measure(units);
      else titled(value);
    }
    return part;
  };
  specification.config.legend.columns = Math.max(2, Math.floor(width / 190));
  if (width < 600) {  // a phone: lines and panels that fit
    const lines = specification.title.text;
    lines.expr = `split(replace(join(${lines.expr}, '\\n'), regexp('[,;] | (?=[(])', 'g'), '\\n'), '\\n')`;
    const drawn = specification.spec || specification;
    if (typeof drawn.width === "number") drawn.width = Math.min(drawn.width, width - (id === "curves" ? 90 : 150));
  }
  const options = {renderer: "svg", actions: false, bind: figure.querySelector(".controls"), patch: vega => flexible(titled(vega))};
  return vegaEmbed(place, {...specification, datasets: {numbers: unpack(columns)}}, options).then(({view, vgSpec}) => {
    if (vgSpec.layout?.columns) views.push([view, place]);
    figure.querySelector("button").addEventListener("click", async () => {
      const svg = (await view.toSVG()).replaceAll("currentColor", getComputedStyle(root).color);
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([svg], {type: "image/svg+xml"}));
      link.download = `${id}.svg`;
      link.click();
      URL.revokeObjectURL(link.href);
    });
  });
};
const {units, figures} = JSON.parse(document.getElementById("figures").textContent);
// On paper nothing is closed, and a figure has the number of columns with which its panels are largest.
const PAPER = {width: 1030, height: 530};  // px, as in page.css
let closed = [], before = [];
const forPaper = (view, place) => {
  const many = view.data("facet_domain").length, now = view.signal("columns"), box = place.querySelector("svg").getBBox();
  const width = box.width / Math.min(now, many), height = box.height / Math.ceil(many / now);
  const size = columns => Math.min(1, PAPER.width / (columns * width), PAPER.height / (Math.ceil(many / columns) * height));
  return [...Array(many).keys()].map(one => one + 1).reduce((a, b) => size(b) > size(a) ? b : a, now);
};
addEventListener("beforeprint", () => {
  closed = find("details:not([open])");
  for (const one of closed) one.open = true;
  before = views.map(([view]) => view.signal("columns"));
  for (const [view, place] of views) view.signal("columns", forPaper(view, place)).run();
});
addEventListener("afterprint", () => {
  for (const one of closed) one.open = false;
  views.forEach(([view], place) => view.signal("columns", before[place]).run());
});
Promise.all(Object.entries(figures).map(([id, figure]) => draw(id, figure)))
  .then(() => { root.dataset.drawn = "yes"; });
