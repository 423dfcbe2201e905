// The table of contigs: the data lies in the page column by column, and only the rows of one page are drawn.
"use strict";
(() => {
  const element = (id) => document.getElementById(id);
  const data = JSON.parse(element("data").textContent);
  const columns = Object.keys(data);
  const lowered = data.record.map((name) => name.toLowerCase());
  const listed = data.record.map((_, row) => row);
  const format = new Intl.NumberFormat("en", { maximumFractionDigits: 4 });
  const state = { column: null, descending: false, page: 0, rows: listed };

  function isNumber(column) {
    return !["record", "call", "reason", "category"].includes(column);
  }

  function classOf(column, value) {
    if (isNumber(column)) return "number";
    return { record: "name", call: `call-${value}` }[column] ?? column;
  }

  // Rows that are searched for, in the order asked for; those without a value come last either way.
  function select() {
    const wanted = element("search").value.trim().toLowerCase();
    const call = element("call").value;
    state.rows = listed.filter((row) => lowered[row].includes(wanted) && (!call || data.call[row] === call));
    if (state.column) {
      const values = data[state.column];
      const sign = state.descending ? -1 : 1;
      const compare = isNumber(state.column)
        ? (a, b) => a - b
        : (a, b) => (a < b ? -1 : a > b ? 1 : 0);
      const missing = (row) => values[row] === null || values[row] === "";
      state.rows.sort((a, b) => missing(a) || missing(b) ? missing(a) - missing(b) : sign * compare(values[a], values[b]));
    }
    state.page = 0;
    draw();
  }

  function draw() {
    const size = Number(element("rows").value);
    const last = Math.max(0, Math.ceil(state.rows.length / size) - 1);
    state.page = Math.min(Math.max(state.page, 0), last);
    const start = state.page * size;
    const rows = state.rows.slice(start, start + size).map((row) => {
      const line = document.createElement("tr");
      for (const column of columns) {
        const cell = line.insertCell();
        const value = data[column][row];
        cell.textContent = value === null ? "" : isNumber(column) ? format.format(value) : value;
        if (column === "reason") cell.textContent = value.replaceAll(",", ", ");
        cell.className = classOf(column, value);
      }
      return line;
    });
    element("table").tBodies[0].replaceChildren(...rows);
    element("shown").textContent = state.rows.length
      ? `Rows ${format.format(start + 1)} to ${format.format(start + rows.length)} of ${format.format(state.rows.length)}`
      : "No contig matches.";
    element("first").disabled = element("previous").disabled = state.page === 0;
    element("next").disabled = element("last").disabled = state.page === last;
  }

  // A header sorts one way, then the other, then not at all; numbers start with the largest.
  function sortBy(column) {
    const first = isNumber(column);
    if (state.column !== column) Object.assign(state, { column, descending: first });
    else if (state.descending === first) state.descending = !first;
    else state.column = null;
    for (const button of document.querySelectorAll("[data-column]")) {
      const order = state.descending ? "descending" : "ascending";
      if (button.dataset.column === state.column) button.parentElement.setAttribute("aria-sort", order);
      else button.parentElement.removeAttribute("aria-sort");
    }
    select();
  }

  function download(separator, extension) {
    const quote = (value) => {
      const text = value === null ? "" : String(value);
      return separator === "," && /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    };
    const lines = [columns, ...state.rows.map((row) => columns.map((column) => data[column][row]))];
    const text = lines.map((line) => line.map(quote).join(separator) + "\n").join("");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
    link.download = `${element("table").dataset.sample}.contigs.${extension}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }

  async function copy(button) {
    const source = element(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(source.textContent.trim());
      button.textContent = "Copied";
    } catch {
      // Not allowed here: select it, so that the keyboard can copy it.
      source.closest("details")?.setAttribute("open", "");
      getSelection().selectAllChildren(source);
      button.textContent = "Selected: press Ctrl-C";
    }
  }

  const turn = (page) => () => { state.page = page(); draw(); };
  element("search").addEventListener("input", select);
  element("call").addEventListener("change", select);
  element("rows").addEventListener("change", turn(() => 0));
  element("first").addEventListener("click", turn(() => 0));
  element("previous").addEventListener("click", turn(() => state.page - 1));
  element("next").addEventListener("click", turn(() => state.page + 1));
  element("last").addEventListener("click", turn(() => Infinity));
  element("tsv").addEventListener("click", () => download("\t", "tsv"));
  element("csv").addEventListener("click", () => download(",", "csv"));
  for (const button of document.querySelectorAll("[data-column]")) {
    button.addEventListener("click", () => sortBy(button.dataset.column));
  }
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.addEventListener("click", () => copy(button));
  }
  draw();
})();
