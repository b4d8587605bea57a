// Columns sort by a button in their heading; without this script tables stand in the order they came in.
"use strict";
const shown = (row, column) => row.cells[column].firstChild ? row.cells[column].firstChild.textContent.trim() : "";
const number = (text) => /^[-+−]?[\d,]*\.?\d+(e[-+]?\d+)?/i.test(text)
  ? parseFloat(text.replace(/,/g, "").replace("−", "-")) : NaN;

function sort(table, column, falling) {
  const sign = falling ? -1 : 1;
  const compare = (one, other) => {
    const [a, b] = [shown(one, column), shown(other, column)];
    const [x, y] = [number(a), number(b)];
    if (column === 0 || (isNaN(x) && isNaN(y))) return sign * a.localeCompare(b, undefined, { numeric: true });
    if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y);  // what was not measured comes last either way
    return sign * (x - y);
  };
  table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
}

for (const table of document.querySelectorAll("table.sortable")) {
  if (table.tBodies[0].rows.length < 2) continue;
  const head = [...table.tHead.rows].at(-1);
  [...head.cells].forEach((cell, column) => {
    if (!cell.textContent.trim()) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...cell.childNodes);
    cell.append(button);
    button.addEventListener("click", () => {
      const before = cell.getAttribute("aria-sort");
      const falling = before ? before === "ascending" : column > 0;
      for (const other of head.cells) other.removeAttribute("aria-sort");
      cell.setAttribute("aria-sort", falling ? "descending" : "ascending");
      sort(table, column, falling);
    });
  });
}
