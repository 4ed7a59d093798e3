"use strict";
const figures = JSON.parse(document.getElementById("figures").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const narrow = matchMedia("(max-width: 40rem)");

function ink(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function layout(name, figure) {
  const axis = { gridcolor: ink("--line"), zeroline: false, linecolor: ink("--line"), automargin: true };
  const small = narrow.matches;
  const entries = new Set(figure.data.filter((t) => t.showlegend !== false).map((t) => t.name)).size;
  const beside = !small && entries > 6;
  const legend = beside
    ? { orientation: "v", x: 1.02, y: 1, font: { size: 11 } }
    : { ...figure.layout.legend, font: { size: small ? 10 : 12 } };
  return {
    height: small ? 420 + 16 * Math.min(entries, 12) : 500,
    ...figure.layout,
    legend,
    showlegend: entries > 1 && !(small && entries > 8 && name !== Object.keys(figures)[0]),
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: ink("--ink"), family: getComputedStyle(document.body).fontFamily, size: small ? 11 : 13 },
    hoverlabel: { font: { size: 12 }, align: "left" },
    margin: { l: small ? 48 : 64, r: 12, t: small ? 12 : 36, b: 56 },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: ink("--quiet"), activecolor: ink("--ink") },
    xaxis: { ...axis, ...figure.layout.xaxis },
    yaxis: { ...axis, ...figure.layout.yaxis },
  };
}

function draw() {
  const config = { displaylogo: false, responsive: true, displayModeBar: !narrow.matches };
  config.modeBarButtonsToRemove = ["lasso2d", "select2d"];
  for (const [name, figure] of Object.entries(figures)) {
    Plotly.react(name, figure.data, layout(name, figure), config);
  }
}

function key(row, column) {
  const cell = row.cells[column];
  return "value" in cell.dataset ? Number(cell.dataset.value) : cell.textContent;
}

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
  return a.localeCompare(b, undefined, { numeric: true });
}

function sort(head) {
  const table = head.closest("table");
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const rows = [...table.tBodies[0].rows];
  rows.sort((a, b) => (down ? -1 : 1) * compare(key(a, head.cellIndex), key(b, head.cellIndex)));
  table.tBodies[0].append(...rows);
}

for (const button of document.querySelectorAll("table.sortable th button")) {
  button.addEventListener("click", () => sort(button.closest("th")));
}
draw();
dark.addEventListener("change", draw);
narrow.addEventListener("change", draw);
