"use strict";
// Tables are sorted by a click on a heading and filtered by words; without this, they are read as they are.
const value = (cell) => {
  const text = cell.textContent.replaceAll(",", "");
  const shape = text.match(/^(?:(\d+) of )?(\d+) x (\d+)$/);
  if (shape) return (shape[1] ?? 1) * shape[2] * shape[3];
  if (/^-?inf$/.test(text)) return text === "inf" ? Infinity : -Infinity;
  return /^-?[\d.]+(e[+-]\d+)?%?$/.test(text) ? parseFloat(text) : NaN;
};

const sort = (body, rows, column, down) => {
  const keyed = rows.map((row) => ({row, text: row.cells[column].textContent, number: value(row.cells[column])}));
  const numbers = keyed.some((one) => !Number.isNaN(one.number)) && column > 0;
  const last = (one) => numbers && Number.isNaN(one.number);
  keyed.sort((a, b) => {
    if (last(a) || last(b)) return last(a) - last(b);
    const order = numbers ? (a.number > b.number) - (a.number < b.number)
      : a.text.localeCompare(b.text, "en", {numeric: true});
    return down ? -order : order;
  });
  body.append(...keyed.map((one) => one.row));
};

for (const table of document.querySelectorAll("table.data")) {
  const body = table.tBodies[0], rows = [...body.rows], heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const before = head.getAttribute("aria-sort");
      // Names from a to z first, numbers from the largest.
      const text = rows.every((row) => Number.isNaN(value(row.cells[column])));
      const down = before === null ? !(text || column === 0) : before === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      sort(body, rows, column, down);
    });
  });
  if (rows.length < 8) continue;
  const line = document.createElement("p"), box = document.createElement("input");
  const count = document.createElement("output");
  line.className = "filter";
  box.type = "search";
  box.placeholder = "filter rows";
  box.setAttribute("aria-label", `Filter: ${table.parentElement.getAttribute("aria-label")}`);
  box.addEventListener("input", () => {
    const words = box.value.toLowerCase().split(/\s+/);
    for (const row of rows) {
      const text = [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
    count.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length}`;
  });
  line.append(box, count);
  table.parentElement.before(line);
}
