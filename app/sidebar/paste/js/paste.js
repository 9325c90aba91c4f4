// @ts-check
// Hands a pasted picture to Python as a data URL; pasted text goes its usual way.

/** @type {WeakMap<ParentNode, AbortController>} Streamlit calls with every run of the page, and cleans up once. */
const listening = new WeakMap();

/**
 * @param {{ parentElement: ParentNode, setTriggerValue: (name: string, value: unknown) => void }} component
 */
export default function ({ parentElement, setTriggerValue }) {
  listening.get(parentElement)?.abort();
  const listener = new AbortController();
  listening.set(parentElement, listener);
  /** @param {ClipboardEvent} event */
  const paste = (event) => {
    const file = [...(event.clipboardData?.files ?? [])].find((one) => one.type.startsWith("image/"));
    if (!file) return;
    event.preventDefault();
    const reader = new FileReader();
    reader.onload = () => setTriggerValue("pasted", reader.result);
    reader.readAsDataURL(file);
  };
  document.addEventListener("paste", paste, { signal: listener.signal });
  return () => listener.abort();
}
