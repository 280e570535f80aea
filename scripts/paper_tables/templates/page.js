// Sorts a table by a column: numbers by value, empty cells last.
function sortBy(head) {
  const row = head.parentElement;
  const table = head.closest("table");
  const column = [...row.children].indexOf(head);
  const direction = head.ariaSort === "ascending" ? -1 : 1;
  const key = (line) => {
    const cell = line.children[column];
    return cell.dataset.value ?? cell.textContent.trim();
  };
  const compare = (a, b) => {
    const [x, y] = [key(a), key(b)];
    if (x === "" || y === "") return (x === "") - (y === "");
    const numeric = x - y;
    return direction * (isNaN(numeric) ? x.localeCompare(y) : numeric);
  };
  for (const other of row.children) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
  table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
}

for (const head of document.querySelectorAll(".sortable thead th")) {
  head.querySelector("button").addEventListener("click", () => sortBy(head));
}

// Hides rows without the text of the filter, and then empty tables.
const filter = document.getElementById("filter");
const ours = document.getElementById("ours");
function show() {
  const text = filter.value.toLowerCase();
  for (const section of document.querySelectorAll("section")) {
    const title = section.querySelector("h2").textContent.toLowerCase();
    let visible = 0;
    for (const line of section.querySelectorAll("tbody tr")) {
      const matches =
        title.includes(text) || line.textContent.toLowerCase().includes(text);
      line.hidden =
        !matches || (ours.checked && line.classList.contains("cited"));
      visible += !line.hidden;
    }
    section.hidden = !visible;
  }
}
filter.addEventListener("input", show);
ours.addEventListener("change", show);
