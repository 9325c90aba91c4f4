// @ts-check
// Draws data.items as picture buttons; a click hands the item's id to Python as the trigger "picked".

/** @typedef {{ id: number, src: string, alt: string }} Item */
/** @typedef {{ items: Item[], selected: number | null, label: string }} Shown */

/**
 * @param {{
 *   data: Shown, parentElement: ParentNode, setTriggerValue: (name: string, value: unknown) => void,
 * }} component
 */
export default function ({ data, parentElement, setTriggerValue }) {
  const grid = /** @type {HTMLElement} */ (parentElement.querySelector(".grid"));
  grid.setAttribute("aria-label", data.label);
  const known = buttonsOf(grid).map((button) => button.dataset.id).join();
  if (known !== data.items.map((item) => item.id).join()) {
    grid.replaceChildren(...data.items.map(thumbnail));
  }
  for (const button of buttonsOf(grid)) {
    const id = Number(button.dataset.id);
    button.setAttribute("aria-pressed", String(id === data.selected));
    button.onclick = () => setTriggerValue("picked", id);
  }
}

/** @param {HTMLElement} grid */
const buttonsOf = (grid) => [...grid.querySelectorAll("button")];

/** @param {Item} item */
function thumbnail(item) {
  const button = document.createElement("button");
  const image = document.createElement("img");
  button.type = "button";
  button.dataset.id = String(item.id);
  button.title = item.alt;
  image.src = item.src;
  image.alt = item.alt;
  button.append(image);
  return button;
}
