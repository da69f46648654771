// The table of points: sorting and filters. Cells are text, never markup.
"use strict";

const table = (() => {
  const FIRST = 100;

  function text(cell) {
    if (cell === true) return "yes";
    if (cell === false || cell === null) return "";
    return typeof cell === "number" ? charts.shown(cell) : cell;
  }

  function compare(a, b) {
    if (a === null || b === null) return a === b ? 0 : a === null ? 1 : -1; // what is not known stays last
    return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true });
  }

  function make(root, data, points, select) {
    const [head, body] = [root.tHead, root.tBodies[0]];
    const state = { column: null, down: false, all: false };
    const texts = data.rows.map((row) => row.map(text).join("\u0000").toLowerCase());
    const marked = data.headings.indexOf("verdict");

    const line = head.insertRow();
    data.headings.forEach((heading, at) => {
      const cell = document.createElement("th");
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = heading;
      button.addEventListener("click", () => sortBy(at));
      cell.scope = "col";
      if (data.numeric[at]) cell.className = "number";
      cell.append(button);
      line.append(cell);
    });

    function sortBy(at) {
      state.down = state.column === at ? !state.down : data.numeric[at];
      state.column = at;
      [...line.cells].forEach((cell, index) => {
        if (index === at) cell.setAttribute("aria-sort", state.down ? "descending" : "ascending");
        else cell.removeAttribute("aria-sort");
      });
      show();
    }

    function order(indices) {
      if (state.column === null) return indices;
      const cells = (index) => data.rows[index][state.column];
      const sign = (a, b) => (cells(a) === null || cells(b) === null || !state.down ? 1 : -1);
      return [...indices].sort((a, b) => sign(a, b) * compare(cells(a), cells(b)) || a - b);
    }

    function row(index, chosen) {
      const made = document.createElement("tr");
      if (index === chosen) made.className = "chosen";
      data.rows[index].forEach((cell, at) => {
        const place = document.createElement(at === 0 ? "th" : "td");
        if (at === 0) {
          const button = document.createElement("button");
          button.type = "button";
          button.textContent = text(cell);
          button.addEventListener("click", () => select(index));
          place.scope = "row";
          place.append(button);
        } else {
          place.textContent = text(cell);
          if (data.numeric[at]) place.className = "number";
          if (at === marked) place.className = `mark-${cell}`;
        }
        made.append(place);
      });
      return made;
    }

    function show(filter = state.filter, chosen = state.chosen) {
      Object.assign(state, { filter, chosen });
      const words = filter.text.toLowerCase().split(/\s+/).filter(Boolean);
      const kept = points.filter((point) =>
        point.workload === filter.workload
        && (!filter.standing || point.standing === filter.standing)
        && (!filter.sla || point.sla === filter.sla)
        && (!filter.front || point.front)
        && words.every((word) => texts[point.index].includes(word))).map((point) => point.index);
      const ordered = order(kept);
      const some = state.all ? ordered : ordered.slice(0, FIRST);
      body.replaceChildren(...some.map((index) => row(index, chosen)));
      const more = document.getElementById("more");
      more.hidden = some.length === ordered.length;
      more.textContent = `Show all ${ordered.length}`;
      more.onclick = () => { state.all = true; show(); };
      document.getElementById("count").textContent = `${ordered.length} of ${points.length} points`;
    }

    return { show };
  }

  return { make };
})();
