// Makes elements. Text goes in as text and nowhere is there a way to put in markup: that is the page's first defence
// against what providers and callers write; the policy of the server is the second.

export function el(name, about = {}, ...inside) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(about)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? "" : String(value));
  }
  put(made, inside);
  return made;
}

export function put(where, inside) {
  where.replaceChildren(...inside.flat(Infinity).filter((each) => each !== null && each !== undefined && each !== false));
  return where;
}

export const byId = (id) => document.getElementById(id);

// Makes the children of `where` those of `items`, in order, and keeps the elements of items that were there before, so
// that focus and selection survive an update.
export function keep(where, items, key, make, update) {
  const before = new Map([...where.children].map((each) => [each.dataset.key, each]));
  let place = where.firstElementChild;
  for (const item of items) {
    const id = key(item);
    let each = before.get(id);
    if (each) before.delete(id);
    else {
      each = make(item);
      each.dataset.key = id;
    }
    update(each, item);
    if (each === place) place = place.nextElementSibling;
    else where.insertBefore(each, place);
  }
  for (const each of before.values()) each.remove();
}

const SHOWN = 64 * 1024;

// A text that somebody else wrote. Of a long one the beginning is shown until the rest is asked for: a megabyte in one
// line takes a browser seconds to lay out.
export function said(text, className = "said") {
  const box = el("pre", { class: className, dir: "auto", tabindex: text.length > 2000 ? 0 : null });
  if (text.length <= SHOWN) {
    box.textContent = text;
    return box;
  }
  box.textContent = safeCut(text, SHOWN);
  const left = text.length - SHOWN;
  const button = el(
    "button",
    {
      type: "button",
      class: "rest",
      onclick: () => {
        box.textContent = text;
        box.focus();
        button.remove();
      },
    },
    `Show the other ${left.toLocaleString()} characters`,
  );
  box.tabIndex = -1;
  return el("div", {}, box, button);
}

// Never half of a character.
export function safeCut(text, length) {
  const code = text.charCodeAt(length - 1);
  return text.slice(0, code >= 0xd800 && code < 0xdc00 ? length - 1 : length);
}

// A short text that somebody else wrote, in a line with ours: its direction stays its own.
export const bdi = (text, about = {}) => el("bdi", about, String(text));
