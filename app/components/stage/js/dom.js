// @ts-check
// Elements of the page: made, or found where the component's HTML has them.

/**
 * @param {string} tag
 * @param {string} className none where empty
 * @param {string | number} [text]
 */
export function element(tag, className = "", text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = String(text);
  return made;
}

/**
 * The first element of a kind that a selector finds.
 * @template {Element} T
 * @param {ParentNode} root
 * @param {string} selector
 * @param {new () => T} kind
 * @returns {T}
 */
export function find(root, selector, kind) {
  const found = root.querySelector(selector);
  if (found instanceof kind) return found;
  throw new Error(`The stage's HTML has no ${kind.name} at "${selector}".`);
}

/**
 * All input elements that a selector finds.
 * @param {ParentNode} root
 * @param {string} selector
 * @returns {HTMLInputElement[]}
 */
export function inputs(root, selector) {
  return [...root.querySelectorAll(selector)].filter((one) => one instanceof HTMLInputElement);
}
