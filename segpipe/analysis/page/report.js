"use strict";
// A heading sorts its table: numbers the largest first, text from A; again, the other way round. A dash goes last.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const numeric = head.classList.contains("number");
    const first = numeric ? "descending" : "ascending";
    const second = numeric ? "ascending" : "descending";
    const direction = head.getAttribute("aria-sort") === first ? second : first;
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", direction);
    const sign = direction === "ascending" ? 1 : -1;
    const rows = [...table.tBodies[0].rows].map((row) => [row, row.cells[column]]);
    const key = (cell) => (cell.dataset.sort === undefined ? NaN : Number(cell.dataset.sort));
    rows.sort(([, a], [, b]) => {
      if (!numeric) return sign * a.textContent.localeCompare(b.textContent, "en", { numeric: true });
      if (Number.isNaN(key(a)) || Number.isNaN(key(b))) return Number.isNaN(key(a)) - Number.isNaN(key(b));
      return sign * (key(a) - key(b));
    });
    table.tBodies[0].append(...rows.map(([row]) => row));
  }));
}
// In an open image the arrow keys and a swipe go to the next one, Escape closes it.
const go = (name) => {
  const link = document.querySelector(`.image:target .${name}`);
  if (link) link.click();
};
document.addEventListener("keydown", (event) => {
  const name = { ArrowLeft: "before", ArrowRight: "next", Escape: "close" }[event.key];
  if (name && document.querySelector(".image:target")) {
    go(name);
    event.preventDefault();
  }
});
let began = null;
document.addEventListener("touchstart", (event) => { began = event.changedTouches[0].clientX; }, { passive: true });
document.addEventListener("touchend", (event) => {
  const moved = event.changedTouches[0].clientX - began;
  if (Math.abs(moved) > 50) go(moved < 0 ? "next" : "before");
}, { passive: true });
