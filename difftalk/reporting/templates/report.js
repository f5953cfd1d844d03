"use strict";
// Tables sort by a click on a heading: down, up, and back to the order of the file.
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0], order = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  const numberOf = (cell) => (cell && cell.dataset.number ? Number(cell.dataset.number) : NaN);
  const compare = (column) => (a, b) => {
    const [x, y] = [a.cells[column], b.cells[column]];
    const [m, n] = [numberOf(x), numberOf(y)];
    if (!Number.isNaN(m) && !Number.isNaN(n)) return m - n;
    return x.textContent.localeCompare(y.textContent, undefined, {numeric: true});
  };
  const sort = (column) => {
    const now = heads[column].ariaSort || "none";
    const next = {none: "descending", descending: "ascending", ascending: "none"}[now];
    heads.forEach((head) => { head.ariaSort = "none"; });
    heads[column].ariaSort = next;
    const filled = (row) => row.cells[column].textContent.trim() !== "";
    const rows = order.filter(filled), empty = order.filter((row) => !filled(row));
    if (next !== "none") rows.sort(compare(column));
    if (next === "descending") rows.reverse();
    body.append(...(next === "none" ? order : [...rows, ...empty]));
  };
  heads.forEach((head, column) => {
    if (!head.textContent.trim() || order.length < 2) return;
    head.tabIndex = 0;
    head.classList.add("sortable");
    head.addEventListener("click", () => sort(column));
    head.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); sort(column); }
    });
  });
}
// One clip is heard at a time.
const videos = [...document.querySelectorAll("video")];
for (const video of videos) {
  video.addEventListener("play", () => videos.forEach((other) => { if (other !== video) other.pause(); }));
}
