
// Filters the cases of a page. Without it every case is there, and its details open all the same.
(() => {
  const form = document.getElementById("filter");
  if (!form) return;
  const said = document.getElementById("shown");
  const cases = [...document.querySelectorAll(".case")].map(element => ({
    element,
    ...element.dataset,
    groups: element.dataset.groups.split("\n"),
    tags: element.dataset.tags.split("\n"),
    text: element.textContent.toLowerCase(),
  }));
  const moves = {
    all: () => true,
    changed: item => item.changed === "yes",
    worse: item => item.move === "worse" || item.move === "unscored",
    better: item => item.move === "better",
  };
  function apply() {
    const { text, which, group, tag } = Object.fromEntries(new FormData(form));
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const item of cases) {
      const fits = moves[which || "all"](item) && (!group || item.groups.includes(group)) && (!tag || item.tags.includes(tag))
        && words.every(word => item.text.includes(word));
      item.element.hidden = !fits;
      shown += fits;
    }
    said.textContent = `${shown} of ${cases.length} cases shown`;
  }
  form.hidden = false;
  form.addEventListener("input", apply);
  form.addEventListener("submit", event => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(apply));
  document.getElementById("open").addEventListener("click", () => {
    const visible = cases.filter(item => !item.element.hidden);
    const open = !visible.every(item => item.element.open);
    for (const item of visible) item.element.open = open;
  });
  for (const link of document.querySelectorAll("a[data-show]")) {
    link.addEventListener("click", () => {
      form.reset();
      form.elements.group.value = link.dataset.show;
      apply();
    });
  }
  apply();
})();
