"use strict";
document.documentElement.classList.add("script");
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
      const number = (text) => parseFloat(text.replaceAll(",", ""));
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => {
        const x = value(a), y = value(b), p = number(x), q = number(y);
        if (Number.isNaN(p) !== Number.isNaN(q)) return Number.isNaN(p) ? 1 : -1;
        return (up ? 1 : -1) * (Number.isNaN(p) ? x.localeCompare(y) : p - q);
      });
      table.tBodies[0].append(...rows);
    });
  });
}
const reveal = () => {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const closed = target?.closest("details:not([open])");
  if (closed) { closed.open = true; target.scrollIntoView(); }
};
addEventListener("hashchange", reveal);
reveal();
const filter = document.getElementById("filter");
if (filter) {
  const maps = [...document.querySelectorAll("table.map")];
  for (const map of maps)
    map.tBodies[0].addEventListener("click", (event) => {
      const cell = event.target.closest("td");
      const link = cell?.parentElement.querySelector("a");
      if (!cell || !cell.textContent) return;
      const plane = map.tHead.rows[1].cells[cell.cellIndex - 1].textContent.trim();
      location.hash = link.getAttribute("href");
      reveal();
      const check = document.getElementById(link.getAttribute("href").slice(1)).closest("details");
      for (const item of document.querySelectorAll(".chosen")) item.classList.remove("chosen");
      const items = [...check.querySelectorAll("li")];
      const planes = (item) => item.querySelector("i").textContent.split(", ");
      const item = items.find((each) => planes(each).includes(plane)) ?? items.find((each) => planes(each)[0] === "every other plane");
      item.classList.add("chosen");
      item.scrollIntoView({ block: "nearest" });
    });
  const said = new Map();
  for (const each of document.querySelectorAll("details.check"))
    said.set(each.dataset.check, each.firstElementChild.textContent.toLowerCase());
  const apply = () => {
    const { theme, plane, placement, level, differing, text } = filter.elements;
    const words = text.value.toLowerCase();
    const fits = (row) => (!theme.value || row.dataset.check.startsWith(theme.value + ".")) &&
      (!level.value || row.dataset.level === level.value) && (!differing.checked || "differs" in row.dataset) &&
      said.get(row.dataset.check).includes(words);
    for (const row of document.querySelectorAll("[data-check]")) row.hidden = !fits(row);
    for (const part of document.querySelectorAll("section.theme"))
      part.hidden = !part.querySelector("[data-check]:not([hidden])");
    const shown = (head) => (!plane.value || head.textContent.trim() === plane.value) &&
      (!placement.value || head.dataset.placement === placement.value);
    for (const map of maps) {
      const heads = [...map.tHead.rows[1].cells];
      heads.forEach((head, column) => {
        head.hidden = !shown(head);
        for (const row of map.tBodies[0].rows) row.cells[column + 1].hidden = head.hidden;
      });
      for (const group of map.tHead.rows[0].cells) {
        const count = heads.filter((head) => head.dataset.placement === group.dataset.placement && !head.hidden).length;
        if (group.dataset.placement) { group.hidden = !count; group.colSpan = count || 1; }
      }
    }
  };
  filter.hidden = false;
  filter.addEventListener("input", apply);
  filter.addEventListener("submit", (event) => event.preventDefault());
}
