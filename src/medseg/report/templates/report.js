// The gallery: sorting, filtering, and the enlarged view. Text from data is only ever compared and shown as text.
"use strict";
(() => {
  const find = (id) => document.getElementById(id);
  const gallery = find("gallery"), controls = find("controls"), viewer = find("viewer");
  const cards = [...gallery.children];
  let shown = cards; // in their order on the page
  let current = 0; // the one that is enlarged

  const number = (card, key) => {
    const text = card.getAttribute(`data-${key}`);
    return text === null ? null : Number(text);
  };

  const byText = (key) => (a, b) =>
    a.getAttribute(`data-${key}`).localeCompare(b.getAttribute(`data-${key}`), "en", { numeric: true });

  // Cards without a value come last, whatever the direction.
  const byNumber = (key, sign) => (a, b) => {
    const [first, second] = [number(a, key), number(b, key)];
    if (first === null || second === null) return (first === null) - (second === null);
    return sign * (first - second);
  };

  const sorted = () => {
    const option = controls.elements.sort.selectedOptions[0];
    const reverse = controls.elements.reverse.checked ? -1 : 1;
    const first = option.dataset.first;
    if (first === "text") {
      const order = byText(option.value);
      return [...cards].sort((a, b) => reverse * order(a, b));
    }
    return [...cards].sort(byNumber(option.value, first === "low" ? reverse : -reverse));
  };

  const fits = (card) => {
    const { label, size, least, most, errors, text } = controls.elements;
    const dice = number(card, "dice");
    const low = least.value === "" ? 0 : Number(least.value), high = most.value === "" ? 1 : Number(most.value);
    const wrong = number(card, "missed") > 0 || number(card, "false") > 0 || (dice === null && number(card, "found") > 0);
    return (
      (label.value === "" || label.value === `=${card.dataset.label}`) &&
      (size.value === "" || size.value === card.dataset.size) &&
      (dice === null ? low <= 0 && high >= 1 : low <= dice && dice <= high) &&
      (!errors.checked || wrong) &&
      card.dataset.file.toLowerCase().includes(text.value.trim().toLowerCase())
    );
  };

  const update = () => {
    const order = sorted();
    shown = order.filter(fits);
    const visible = new Set(shown);
    for (const card of order) card.hidden = !visible.has(card);
    gallery.append(...order);
    find("shown").textContent = `${shown.length} of ${cards.length} shown`;
    find("none").hidden = shown.length > 0;
  };

  const show = (place) => {
    current = (place + shown.length) % shown.length;
    const card = shown[current];
    find("viewer-name").textContent = card.dataset.file;
    find("stage").replaceChildren(card.querySelector(".frame").cloneNode(true));
    find("scores").replaceChildren(card.querySelector("dl").cloneNode(true));
    find("place").textContent = `${current + 1} of ${shown.length}`;
    if (!viewer.open) viewer.showModal();
  };

  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 1, ArrowUp: -1 };
  document.documentElement.classList.add("js");
  for (const kind of ["input", "change"]) controls.addEventListener(kind, update); // not all browsers send both
  controls.addEventListener("submit", (event) => event.preventDefault());
  controls.addEventListener("reset", () => setTimeout(update)); // the fields have their values again after this event
  gallery.addEventListener("click", (event) => {
    const card = event.target.closest("button") && event.target.closest(".case");
    if (card) show(shown.indexOf(card));
  });
  viewer.addEventListener("keydown", (event) => {
    if (!(event.key in step)) return;
    event.preventDefault();
    show(current + step[event.key]);
  });
  viewer.addEventListener("click", (event) => {
    if (event.target === viewer) viewer.close(); // beside the image
  });
  viewer.addEventListener("close", () => shown[current].querySelector("button").focus());
  find("close").addEventListener("click", () => viewer.close());
  find("previous").addEventListener("click", () => show(current - 1));
  find("next").addEventListener("click", () => show(current + 1));
  for (const layer of ["truth", "found", "uncertainty"]) {
    const box = find(`show-${layer}`);
    if (!box) continue;
    const apply = () => viewer.classList.toggle(`with-${layer}`, box.checked);
    box.addEventListener("change", apply);
    apply();
  }
  update(); // a browser may have kept the fields from an earlier visit
})();
