"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button")?.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach((each) => each.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
    const number = (text) => (text === "" ? NaN : Number(text));
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => {
      const x = value(a), y = value(b), p = number(x), q = number(y);
      if (Number.isNaN(p) !== Number.isNaN(q)) return Number.isNaN(p) ? 1 : -1;
      return (up ? 1 : -1) * (Number.isNaN(p) ? x.localeCompare(y) : p - q);
    });
    table.tBodies[0].append(...rows);
  }));
}
const matrix = document.getElementById("matrix");
if (matrix) {
  const seen = document.getElementById("seen");
  matrix.addEventListener("click", (event) => {
    const cell = event.target.closest(".cell");
    if (cell) seen.textContent = cell.getAttribute("aria-label");
  });
  const filter = document.getElementById("filter");
  const apply = () => {
    const theme = filter.elements.theme.value, plane = filter.elements.plane.value;
    const differing = filter.elements.differing.checked, text = filter.elements.text.value.toLowerCase();
    for (const row of matrix.tBodies[0].rows) {
      const all = row.dataset.check + " " + row.dataset.statement;
      row.hidden = (theme && !row.dataset.check.startsWith(theme + ".")) ||
        (differing && !row.dataset.differs) || !all.toLowerCase().includes(text);
    }
    for (const row of matrix.rows)
      [...row.cells].forEach((cell, column) => {
        const name = matrix.tHead.rows[0].cells[column].dataset.plane;
        cell.hidden = Boolean(plane) && column > 0 && name !== plane && name !== matrix.dataset.reference;
      });
  };
  filter.addEventListener("input", apply);
  filter.addEventListener("submit", (event) => event.preventDefault());
}
