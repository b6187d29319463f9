// Tables of class "sortable": a button in each heading sorts, and a field above a long table leaves rows out.
const LONG = 12;
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const text = (row, place) => (row.cells[place]?.dataset.value ?? row.cells[place]?.textContent ?? "").trim();
  const number = (row, place) => parseFloat(text(row, place).replace(/,/g, "").replace("\u2212", "-"));
  heads.forEach((head, place) => {
    if (head.ariaHidden === "true" || head.classList.contains("track")) return;
    let button = head.querySelector("button");
    if (!button) {
      button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
    }
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const numeric = head.classList.contains("number");
      const rank = (row) => text(row, place) === "" ? 2 : Number.isNaN(number(row, place)) ? 1 : 0;
      const compare = (a, b) => rank(a) === 0 && rank(b) === 0
        ? number(a, place) - number(b, place) : text(a, place).localeCompare(text(b, place));
      // numbers, then words, then what is empty, whichever way the rest is sorted
      const rows = [...body.rows].sort((a, b) => numeric && rank(a) !== rank(b)
        ? rank(a) - rank(b)
        : (down ? -1 : 1) * (numeric ? compare(a, b) : text(a, place).localeCompare(text(b, place))));
      body.append(...rows);
    });
  });
  if (body.rows.length < LONG) continue;
  const label = document.createElement("label");
  const field = document.createElement("input");
  const count = document.createElement("output");
  label.className = "filter quiet";
  field.type = "search";
  field.autocomplete = "off";
  label.append("Rows with ", field, " ", count);
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of body.rows) {
      const held = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => held.includes(word));
      shown += !row.hidden;
    }
    count.value = words.length ? `${shown} of ${body.rows.length}` : "";
  });
  (table.closest(".scroll") ?? table).before(label);
}
// A box that scrolls sideways can be reached by the keyboard; one that has no need to is passed by.
const reachable = () => {
  for (const box of document.querySelectorAll(".scroll")) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
};
reachable();
addEventListener("resize", reachable);
