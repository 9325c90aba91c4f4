// Draws data.items as picture buttons; a click hands the item's id to Python as the trigger "picked".
export default function ({ data, parentElement, setTriggerValue }) {
  const grid = parentElement.querySelector(".grid");
  grid.setAttribute("aria-label", data.label);
  const known = [...grid.children].map((button) => button.dataset.id).join();
  if (known !== data.items.map((item) => item.id).join()) {
    grid.replaceChildren(...data.items.map(thumbnail));
  }
  for (const button of grid.children) {
    const id = Number(button.dataset.id);
    button.setAttribute("aria-pressed", String(id === data.selected));
    button.onclick = () => setTriggerValue("picked", id);
  }
}

function thumbnail(item) {
  const button = document.createElement("button");
  const image = document.createElement("img");
  button.type = "button";
  button.dataset.id = item.id;
  button.title = item.alt;
  image.src = item.src;
  image.alt = item.alt;
  button.append(image);
  return button;
}
